"""What Ray says of seats and clusters, as lines of ours; needs no Ray."""

import pytest

from runner.fleet.protocol import GoneError
from runner.fleet.ray import refusal


def test_why_ray_gave_a_seat_up_is_said():
    # By hand, since Ray's own errors need a cluster to come up.
    dead = "The actor died unexpectedly before finishing this task.\n\tclass_name: Relay\nThe actor is dead because "
    gone = dead + "all references to the actor were removed including lineage ref count.\nThe actor never ran - it was"
    assert refusal.told(RuntimeError(gone)).is_final and "RAY_AUTH_MODE" in refusal.told(RuntimeError(gone)).why
    died = dead + "its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Common causes are: "
    low = "Task was killed due to the node running low on memory."
    for said, memory, why in [
        (
            died + "(1) it was killed by the OOM killer due to high memory usage",
            False,
            "Ray's process there has died, of ",
        ),
        (dead + f"its worker process has died. Worker exit detail: {low}", True, "memory ran out"),
        ("Something else\nhappened", False, "what Ray calls: happened"),
    ]:
        with pytest.raises(GoneError) as raised:
            refusal.told(RuntimeError(said))
        assert why in raised.value.why and raised.value.memory == memory and not raised.value.is_blameless


def test_a_mismatch_of_versions_is_one_line_that_names_both():
    said = (
        "Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.11.9\n"
        "This process on 10.0.0.2 was started with:\n    Ray: 2.61.0\n    Python: 3.11.7\n"
    )
    problem = refusal.refused("10.0.0.5:6379", RuntimeError(said))
    assert str(problem) == (
        "fleet.address=10.0.0.5:6379: the cluster runs Ray 2.60.0 and Python 3.11.9, this machine Ray 2.61.0 and "
        "Python 3.11.7: they must be the same, Python to the patch level"
    )
    assert problem.exit_code == 3


@pytest.mark.parametrize(
    "said",
    [
        "RPC error: InvalidAuthToken: Authentication token is missing or incorrect. Ensure that",
        "Token authentication is enabled but no authentication token was found.\nEnsure that",
    ],
)
def test_a_token_that_is_missing_or_another_is_one_line(said):
    problem = refusal.refused("10.0.0.5:6379", RuntimeError(said))
    assert str(problem).endswith(f": the cluster does not know this machine's token: {refusal.SAME_TOKEN}")
    assert "\n" not in str(problem) and problem.exit_code == 3
