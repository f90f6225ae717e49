"""The checks that CUDA's attention kernels must pass before they are used, over what stands in for them on a CPU.

The kernels themselves need a GPU, so that no test of `.ci/run` runs them: `tests/bench/gpu` does.
"""

import mlx.core as mx
import pytest

from runner.engine.kernels.cuda.attention import SOURCE, Kernels, kernels
from tests.support.kernels import PlainKernels


class Checked(PlainKernels, Kernels):
    """The kernels' own check, over what stands in for them on a CPU."""

    def __init__(self, wrong=0.0):
        super().__init__(0.3)
        self.sizes = (16, 2)
        self.wrong = wrong

    def finish(self, *arguments):
        return super().finish(*arguments) + self.wrong


@pytest.fixture(autouse=True)
def _on_cpu():
    mx.set_default_device(mx.cpu)


def test_kernels_pass_their_check_when_they_are_right():
    assert Checked().problem(mx.float32) is None


def test_kernels_that_are_wrong_say_by_how_much():
    assert Checked(wrong=0.5).problem(mx.float32) == "are wrong by 0.5"


def test_kernels_that_fail_are_not_used():
    class Failing(Checked):
        def over_slots(self, *_):
            raise RuntimeError("Failed to compile kernel: x.cu(1)\nmore")

    assert Failing().problem(mx.float32) == "fail: Failed to compile kernel: x.cu(1)"


def test_there_are_none_without_cuda():
    assert kernels(mx.bfloat16, 64, 64, 8, 0.125) is None
    assert SOURCE.is_file()  # it is installed with the package
