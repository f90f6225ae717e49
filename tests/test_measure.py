import mlx.core as mx
import pytest

from runner import measure
from runner.model import ResidentModel
from tests.tiny import tiny_llama


@pytest.fixture
def resident(monkeypatch, tmp_path):
    monkeypatch.setenv("ROWMILL_CACHE", str(tmp_path))
    mx.set_default_device(mx.cpu)
    return ResidentModel(tiny_llama())


def test_costs_are_measured_on_the_model_once_for_a_machine(resident, monkeypatch):
    costs = measure.costs_here(resident, "this one")
    assert costs.snapshot > 0 and costs.level >= 0
    monkeypatch.setattr(measure, "measure_costs", lambda model: pytest.fail("measured again"))
    assert measure.costs_here(resident, "this one") == costs
    with pytest.raises(pytest.fail.Exception):
        measure.costs_here(resident, "another")


def test_a_damaged_record_of_costs_is_measured_again(resident, tmp_path):
    measure.costs_here(resident, "this one")
    (file,) = (tmp_path / "costs").iterdir()
    file.write_text("{")
    assert measure.costs_here(resident, "this one").snapshot > 0
