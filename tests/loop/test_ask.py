"""What a request's digest is: checkpoints of every version find their answers by it."""

from runner.loop.requests import digest_of
from runner.sequences import Sequence
from runner.types import Sampling

TOKENS = [1, 2, 300]


def test_digests_are_those_of_earlier_versions():
    drawn = {"sampling": Sampling(0.5), "draw_seed": 7, "mean_logprob": True, "top_logprobs": 2}
    assert [
        digest_of(one).hex()
        for one in (
            Sequence((0, 0), TOKENS, 9),
            Sequence((0, 0), TOKENS, 9, grammar='start: "a"', **drawn),
            Sequence((0, 0), TOKENS, 0, choices=((1, 2), (3,))),
        )
    ] == ["c8fd3185e22d9249a4fd55a6cf8487d7", "696933140468661941adb49863a8e751", "d3082332b779c51c7cc18c6386a96eed"]


def test_a_digest_depends_on_all_that_is_asked_and_on_no_name():
    one = Sequence((0, 0), TOKENS, 9)
    assert digest_of(Sequence((5, 3), TOKENS, 9, boundaries=(1,))) == digest_of(one)
    others = [Sequence((0, 0), TOKENS, 9, grammar="start: /a/"), Sequence((0, 0), TOKENS, 8), Sequence((0, 0), [1], 9)]
    assert len({digest_of(one), *map(digest_of, others)}) == 4
