"""The group ``engine`` of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.keys import key
from runner.types import Sampling, UserError


@dataclass
class EngineConf:
    """How the model runs.

    Only ``max_tokens``, ``max_kv_size``, ``kv_bits``, ``reasoning_effort``, ``think_tokens`` and the sampling keys
    (``temperature``, ``top_p``, ``top_k``, ``min_p``) change what is written; all other keys may differ when a run is
    resumed. Nothing here needs tuning: the batch grows for as long as that yields more tokens per second, and whether a
    prefix is worth sharing is measured once for each model and machine.

    Attributes:
        backend: The device; auto takes the best one available. fake needs no model and answers with text made from the
            prompt's hash, to try out a configuration in a second.
        batch_size: The number of sequences computed together. null: found while the run is at work.
        prefill_tokens: The number of prompt tokens in one step. null: chosen for the device.
        draft_tokens: The most tokens of an answer that are guessed at a time from the text so far and verified together
            (prompt lookup). null: as many as are measured to be faster where few sequences are left, none in recurrent
            models; 0: none; a number: always (see ``rowmill help drafts``).
        memory_gb: The memory for weights and KV caches together. null: what the device has to give.
        max_kv_size: The number of tokens of a row that attention sees: the first 4 and the latest ones. null: all.
        kv_bits: Hold keys and values in 8 or 4 bits, in groups of 64, which takes 53% or 28% of the memory of 16 bits.
            Answers change; ``rowmill perplexity -m engine.kv_bits=null,8,4`` shows by how much. Layers with a window,
            latent KV and recurrent states stay as they are. null: as computed.
        window: The number of rows read ahead. Their prompts are sorted and share what they have in common, at a cost
            of 12 to 16 kB of memory for every 1,000 tokens.
        max_tokens: The length limit of an answer.
        temperature: 0 always takes the likeliest token. Where two are almost equally likely, rounding decides, and it
            depends on how many rows are computed together: after an interruption, on another machine or with another
            batch size, a few long answers can differ.
        top_p: Draw only from the likeliest tokens that together have this probability. 1: off.
        top_k: Draw only from this many of the likeliest tokens. 0: off.
        min_p: Leave out tokens less likely than this fraction of the likeliest. 0: off.
        reasoning_effort: How long a model such as gpt-oss thinks before it answers.
        think_tokens: The most tokens that a model thinks before it answers; its thought is then ended and the answer
            begins. Where the tags around it are plain text and no tokens, the first ``<`` in it ends it, too. null: as
            many as max_tokens allows.
        stall_minutes: If no step finishes for this long, the model's process is restarted.
        max_restarts: After more than this many deaths in a row without an answer in between, the run ends with exit
            code 3.
    """

    backend: str = key("auto", among=("auto", "metal", "cuda", "cpu", "fake"))
    batch_size: int | None = key(None, least=1)
    prefill_tokens: int | None = key(None, least=1)
    draft_tokens: int | None = key(None, least=0, most=64)
    memory_gb: float | None = key(None, least=0)
    max_kv_size: int | None = key(None, least=8)
    kv_bits: int | None = key(None, among=(8, 4), later=True)
    window: int = key(16384, least=1)
    max_tokens: int = key(256, least=1)
    temperature: float = key(0.0, least=0)
    top_p: float = key(1.0, least=0, most=1)
    top_k: int = key(0, least=0)
    min_p: float = key(0.0, least=0, most=1)
    reasoning_effort: str | None = key(None, among=("low", "medium", "high"))
    think_tokens: int | None = key(None, least=1, later=True)
    stall_minutes: float = key(15.0, least=0)
    max_restarts: int = key(5, least=0)

    def __post_init__(self) -> None:
        if self.kv_bits and self.max_kv_size:
            why = "engine.max_kv_size makes windows of all layers, and those stay as they are: leave one of the two out"
            raise UserError("engine.kv_bits", why, value=self.kv_bits)

    def costly(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A model's config.json with the keys that change what its steps cost: ``rowmill tune`` keeps what it finds for
        both.
        """
        keys = {"kv_bits": self.kv_bits, "max_kv_size": self.max_kv_size}
        return {**config, **{f"engine.{name}": value for name, value in keys.items() if value}}

    def refuse_fake(self, command: str) -> None:
        """Raise UserError where there is no model, which this command needs."""
        if self.backend == "fake":
            raise UserError(f"{command} needs a model: engine.backend=fake has none")

    def sampling(self) -> Sampling:
        """How answers are drawn where a request does not say."""
        return Sampling(self.temperature, self.top_p, self.top_k, self.min_p)
