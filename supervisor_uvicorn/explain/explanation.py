"""What is told of one worker at one moment: a value that fits into a log line, a page, and a person's terminal."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from supervisor_uvicorn.model import WorkerId

PY_SPY, FAULTHANDLER, KERNEL = "py-spy", "faulthandler", "kernel"


@dataclass(frozen=True)
class Facts:
    """What a worker used. None: not known.

    ``cpu_s`` and ``rss_bytes`` are of the process. ``wakes`` and ``cpu_share`` (of one CPU) are of its main thread,
    over the ``look_s`` seconds that we looked at it. ``connections`` are those that it accepted at its listening
    socket. ``lag_s`` is told by who has it: the listener, from its own pulse.
    """

    cpu_s: float | None = None
    cpu_share: float | None = None
    wakes: int | None = None
    look_s: float | None = None
    rss_bytes: int | None = None
    fds: int | None = None
    fd_limit: int | None = None
    threads: int | None = None
    connections: int | None = None
    lag_s: float | None = None


@dataclass(frozen=True)
class Explanation:
    """Where a worker was, and what it used.

    ``source`` says who told ``stack``: "py-spy", "faulthandler", or "kernel", which knows no stack (then ``state``,
    ``wchan`` and ``syscall`` are all there is). ``stack`` is of the main thread, the innermost frame first, cut as
    ``frames.py`` says; ``gil`` is that of another thread, where one holds the interpreter's lock. ``state`` is the one
    letter of proc(5), "" where there was no process any more. ``why_not`` has a line for each better source, and why it
    told nothing. ``took_s`` is how long it took to find all this out.
    """

    worker: WorkerId
    source: str = KERNEL
    stack: tuple[str, ...] = ()
    gil: tuple[str, ...] = ()
    state: str = ""
    wchan: str = ""
    syscall: str = ""
    facts: Facts = field(default_factory=Facts)
    why_not: tuple[str, ...] = ()
    took_s: float = 0.0

    def as_object(self) -> dict[str, Any]:
        """For JSON: at most 6 KiB. The worker's name and pid are left to whoever has them beside it."""
        return {
            "source": self.source,
            "stack": list(self.stack),
            "gil": list(self.gil),
            "state": self.state,
            "wchan": self.wchan,
            "syscall": self.syscall,
            "facts": asdict(self.facts),
            "why_not": list(self.why_not),
            "took_s": round(self.took_s, 3),
        }

    def words(self) -> str:
        """For people: several lines, without an indent of its own and without a line feed at the end."""
        from supervisor_uvicorn.explain.words import words

        return words(self)
