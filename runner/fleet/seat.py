"""A seat: a process with the model, which answers turns while a thread of its own computes."""

from __future__ import annotations

import copy
import dataclasses
import gc
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.engine.open import open_engine as open_mlx_engine
from runner.engine.open import stop_at
from runner.fleet.handshake import handshake_of
from runner.fleet.protocol import Ask, Failed, Handshake, Key, Receiver, Spec, Turn
from runner.machine.device import Device
from runner.night.awake import Awake
from runner.night.link import NO_MEMORY
from runner.sequences import Gauge, Generation, Queue, Sequence, Work
from runner.types import UserError


class Seat:
    """The seat's side; every method answers within its ``wait_s`` and a moment, whatever the model does."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._receiver = Receiver()
        self._changed = threading.Condition()
        self._handshake: Handshake | None = None
        self._failed: Failed | None = None
        self._new: list[Sequence] = []
        self._ended: list[Generation] = []
        self._back: list[Key] = []  # forgotten, and not told yet
        self._surplus = 0  # to be forgotten of those that have not begun
        self._flying = self._steps = 0
        self._enough = 1  # of those that ended are worth telling
        self._released = False  # the model shall be given back
        self._engine: Queue | None = None
        self._gauge, self._slots, self._told_slots = Gauge(), 1, 1
        self._work, self._before = Work(), Work()  # in all, and of engines that were released
        Awake(spec.keep_awake).hold()
        threading.Thread(target=self._run, daemon=True).start()

    def handshake(self, wait_s: float) -> Handshake | Failed | None:
        """What the seat is; None as long as its model loads."""
        with self._changed:
            self._changed.wait_for(lambda: self._handshake or self._failed, wait_s)
            return self._failed or self._handshake

    def turn(
        self, number: int, new: list[Ask], wait_s: float, linger_s: float, enough: int, surplus: int = 0
    ) -> Turn | Failed:
        """Begin with ``new``, forget up to ``surplus`` of what has not begun; what has ended since the turn before.

        That is told when ``enough`` have ended, or some after ``linger_s``, at the latest after ``wait_s``.
        """
        began = time.monotonic()
        sequences = self._receiver.sequences_of(new)  # before the model's thread has to wait for it
        with self._changed:
            self._new += sequences
            self._flying += len(new)
            self._surplus = surplus
            self._released = False
            self._changed.notify_all()
            if self._flying:
                self._await(enough, linger_s)
                self._await(1, began + wait_s - time.monotonic())
            ended, self._ended = self._ended, []
            back, self._back = self._back, []
            self._flying -= len(ended) + len(back)
            self._told_slots = self._slots
            work = copy.copy(self._work)
            return self._failed or Turn(number, ended, back, self._slots, self._steps, self._gauge, work)

    def release(self) -> bool:
        """Give the model's memory back; what was in flight is forgotten."""
        with self._changed:
            self._new, self._ended, self._back, self._flying = [], [], [], 0
            self._released = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._engine is None, 30)

    def _await(self, enough: int, timeout: float) -> None:
        self._enough = enough
        self._changed.wait_for(self._is_worth_telling, timeout)

    def _is_worth_telling(self) -> bool:
        has_grown = self._slots > self._told_slots  # and wants more to fill them
        is_enough = len(self._ended) >= min(self._enough, self._flying - len(self._back))
        return is_enough or has_grown or bool(self._back) or self._failed is not None

    def _run(self) -> None:
        try:
            self._open()
            while True:
                self._step()
        except UserError as error:
            failed = Failed(str(error), is_final=True)
        except BaseException as error:
            traceback.print_exc()
            said = f"{type(error).__name__}: {error}"
            memory = bool(NO_MEMORY.search(said))
            failed = Failed("because memory ran out" if memory else f"of an exception ({said})", memory)
        with self._changed:
            self._failed = failed
            self._changed.notify_all()

    def _open(self) -> None:
        engine, facts = open_engine(self._spec, self._beat)
        with self._changed:
            self._engine = engine
            self._slots = self._told_slots = engine.batch_size
            self._handshake = facts._replace(slots=engine.batch_size, costs=engine.costs)
            self._changed.notify_all()

    def _step(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._released or self._new or self._has_work())
            new, self._new = self._new, []
            surplus, self._surplus = self._surplus, 0
        if self._released:
            self._close()
            return
        if self._engine is None:
            self._engine, _ = open_engine(self._spec, self._beat)
        engine = self._engine
        engine.add(new)
        if surplus:
            self._forget(engine.withdraw(surplus))
        ended = engine.step()
        with self._changed:
            if not self._released:
                self._ended += ended
            self._steps += 1
            self._slots, self._gauge = engine.batch_size, engine.gauge()
            self._work = copy.copy(self._before)
            self._work += engine.work
            if self._is_worth_telling():
                self._changed.notify_all()

    def _beat(self) -> None:
        """A part of a long step is done."""
        self._steps += 1

    def _forget(self, sequences: list[Sequence]) -> None:
        with self._changed:
            self._back += [] if self._released else [one.key for one in sequences]
            self._changed.notify_all()

    def _has_work(self) -> bool:
        return self._flying > len(self._ended) + len(self._back)

    def _close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        with self._changed:
            self._before, self._engine = copy.copy(self._work), None
            self._gauge = Gauge()
            self._changed.notify_all()
        gc.collect()
        if mlx := sys.modules.get("mlx.core"):
            mlx.clear_cache()
        with self._changed:
            self._changed.wait_for(lambda: not self._released)


def open_engine(spec: Spec, beat: Callable[[], None] = lambda: None) -> tuple[Queue, Handshake]:
    """The engine of a seat, and what the seat is; ``beat`` is called in long steps. UserError if it cannot run here."""
    if spec.engine.backend == "fake":
        from runner.engine.fake import FakeEngine
        from runner.text.vocabulary import ByteTokenizer

        stopped = stop_at(_prompter(spec, ByteTokenizer()))
        return FakeEngine(spec.engine.batch_size, stopped, spec.share), handshake_of(None)
    from runner.machine.device import set_up
    from runner.models.resolve import model_folder, read_config

    folder = model_folder(spec.model, spec.offline)
    config = read_config(folder)
    device = set_up(spec.engine.backend, spec.engine.costly(config))
    device = dataclasses.replace(device, memory_bytes=device.memory_bytes // spec.sharing)
    engine = _open_model(spec, folder, config, device, beat)
    facts = handshake_of(folder)._replace(device=f"{device.kind} ({device.name})", memory_bytes=device.memory_bytes)
    return engine, facts


def _open_model(spec: Spec, folder: Path, config: dict[str, Any], device: Device, beat: Callable[[], None]) -> Queue:
    from runner.engine.weights import load_tokenizer
    from runner.engine.windows.engine import WindowEngine

    if spec.window:
        return WindowEngine(folder, config, device, spec.engine, spec.window, spec.share, beat)
    return open_mlx_engine(folder, device, spec.engine, _prompter(spec, load_tokenizer(folder, config)), spec.share)


def _prompter(spec: Spec, tokenizer: Any) -> Any:
    """One that knows where answers end, and no prompts."""
    from runner.text.prompter import PromptConf, Prompter

    return Prompter(PromptConf(user="-", chat=spec.chat, stop=list(spec.stop)), tokenizer, "2000-01-01")
