"""The plain engine: a target's corpus, then seeded mutations of it, each timed; and what memory there is before and
after. It needs nothing but Python, and nothing is instrumented, so its times and its memory are the product's own.
"""

from __future__ import annotations

import gc
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from fuzz.mutation import mutated
from fuzz.target import Check, Target

HANG_S = 5.0
"""An input that has not ended by then hangs; generous, because others use this machine, too."""

MOST_FAILURES = 20
WARM_UP = 500
"""So many inputs of the mutations go before memory is measured: caches fill and modules are imported with the first."""

_PACKAGE = str(Path(__file__).parents[2] / "supervisor_uvicorn")


class Hang(BaseException):
    """Raised into an input that takes too long; what catches ``Exception`` is not to catch it."""


@dataclass
class Failure:
    """One kind of failure: ``where`` it was raised tells it from others, ``data`` is the first input that did it."""

    kind: str
    where: str
    words: str
    data: bytes
    times: int = 1

    def as_object(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "where": self.where,
            "words": self.words,
            "input": repr(self.data),
            "times": self.times,
        }


@dataclass
class Failures:
    """Each kind once, so that a run goes on behind what it has found."""

    found: dict[tuple[str, str], Failure] = field(default_factory=dict)

    def add(self, error: BaseException, data: bytes) -> None:
        where = _where(error)
        key = (type(error).__name__, where)
        if key in self.found:
            self.found[key].times += 1
        elif len(self.found) < MOST_FAILURES:
            self.found[key] = Failure(type(error).__name__, where, str(error)[:500], data)


def _where(error: BaseException) -> str:
    """The innermost line of the product in the traceback, else the innermost of all."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(_PACKAGE)]
    ours = ours or [frame for frame in frames if not frame.filename.endswith("fuzz/target.py")]  # holds() says nothing
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}" if ours else "?"


@dataclass
class Outcome:
    """What a run of one target has shown. ``rss_*`` are bytes of this process, ``blocks_*`` objects that Python has
    allocated; both before and after the mutations, and after a collection."""

    inputs: int = 0
    took_s: float = 0.0
    worst_s: float = 0.0  # of one input, by the clock on the wall
    worst_cpu_s: float = 0.0
    worst_input: bytes = b""
    rss_before: int = 0
    rss_after: int = 0
    blocks_before: int = 0
    blocks_after: int = 0
    failures: Failures = field(default_factory=Failures)


def run(target: Target, count: int, seed: int, more: Sequence[bytes] = ()) -> Outcome:
    """The corpus of ``target`` and ``more``, then mutations of them until there were ``count`` inputs.

    In the main thread alone (``SIGALRM`` ends what hangs). Raises nothing that an input raises: it is in ``failures``.
    """
    corpus = list(dict.fromkeys([*target.corpus(), *more]))
    chance = random.Random(f"{target.name} {seed}")
    outcome = Outcome()
    began = time.perf_counter()
    with target.session() as check, _alarm():
        for data in corpus:  # twice: with the first pass modules are imported, which takes longer than any input
            _one(check, data, outcome)
        outcome.worst_s = outcome.worst_cpu_s = 0.0
        gc.collect()
        gc.freeze()  # or now and then an input is charged with a collection over every module there is: 10 ms
        for data in corpus:
            _one(check, data, outcome)
        mutations = max(1, count - outcome.inputs)
        for number in range(mutations):
            if number == min(WARM_UP, mutations // 2):
                outcome.rss_before, outcome.blocks_before = _memory()
            _one(check, mutated(chance, corpus, target.tokens, target.most_bytes), outcome)
        outcome.rss_after, outcome.blocks_after = _memory()
        gc.unfreeze()
    outcome.took_s = time.perf_counter() - began
    return outcome


def _one(check: Check, data: bytes, outcome: Outcome) -> None:
    cpu, wall = time.process_time(), time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    try:
        check(data)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what we look for
        outcome.failures.add(error, data)
    except Hang as error:
        outcome.failures.add(error, data)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    outcome.inputs += 1
    took_s, took_cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    outcome.worst_s = max(outcome.worst_s, took_s)
    if took_cpu_s > outcome.worst_cpu_s:
        outcome.worst_cpu_s, outcome.worst_input = took_cpu_s, data


@contextmanager
def _alarm() -> Iterator[None]:
    def end(_: int, __: FrameType | None) -> None:
        raise Hang(f"not at its end after {HANG_S:g} s")

    before = signal.signal(signal.SIGALRM, end)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _memory() -> tuple[int, int]:
    gc.collect()
    resident_pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return resident_pages * resource.getpagesize(), sys.getallocatedblocks()
