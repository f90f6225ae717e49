"""What a checkpoint's sums promise: what a session did is kept by names that stay."""

from dataclasses import fields

from runner.checkpoint.counts import SessionWork

# As a finished session of an earlier version left it, among the other facts of its provenance.
OLD = {
    **{"versions": {"rowmill": "0.1.0"}, "engine": {"backend": "cpu"}, "commit": None, "batch_size": 4},
    **{"decoded": 9, "prefilled": 800, "cached": 1900, "padded": 200, "lanes": 60, "slots": 120, "model_s": 0.5},
    **{"forced": 7, "prompt": 3000, "shareable": 2000, "served": 100, "loop_s": 0.75, "snapshot_cost": 59.0},
}
LATER = {"thoughts_ended": 0, "drafted": 0, "accepted": 0}  # which it did not know


def test_work_is_kept_by_the_names_that_earlier_checkpoints_have():
    names = [one.name for one in fields(SessionWork)]
    assert set(names) <= OLD.keys() | LATER.keys()
    assert SessionWork.from_json(OLD).to_json() == {name: (OLD | LATER)[name] for name in names}


def test_work_of_sessions_adds_up_and_one_that_was_killed_counts_for_nothing():
    twice = SessionWork.total([SessionWork.from_json(OLD), SessionWork.from_json({}), SessionWork.from_json(OLD)])
    assert twice == SessionWork(**{name: 2 * value for name, value in SessionWork.from_json(OLD).to_json().items()})
    assert SessionWork.total([]) == SessionWork()
