"""What supervisord remembers for the listener: one board, and a few named cells.

A listener is restarted, upgraded, killed; what it knew must outlive it. supervisord is the one process that is always
there, so it keeps texts for it: the *board* (what the listener last reported, for status verbs) and *cells* (history,
budgets, backoff, pauses, intentions). The texts are opaque: one JSON string costs supervisord's only thread 0.1 ms
where structures for 256 workers cost 8.

A `reload` makes a new Supervisor object in the same Python process, and the events and workers begin afresh; a pause or
a budget does not. So the memory hangs on this module (:data:`MEMORY`), survives `reload`, and ends with supervisord.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from supervisor.xmlrpc import Faults, RPCError

# Bounds, so that nobody who may call can fill supervisord's memory or hold it up. To take or to give 1 MiB takes its
# only thread 2 ms, 4 MiB 10 to 25 ms (nearly all of it in its XML parser). The board of 256 workers has 53,000 bytes.
MAX_TEXT_BYTES = 1024 * 1024
MAX_CELLS = 64
MAX_KEY_CHARACTERS = 200
MAX_CELLS_BYTES = 4 * 1024 * 1024  # all cells together


class _Note(NamedTuple):
    text: str
    size_bytes: int
    at: float  # wall clock, for people
    since: float  # monotonic, for its age


class Memory:
    """The board and the cells. The clocks are seconds, as :func:`time.monotonic` and :func:`time.time`."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._board: _Note | None = None
        self._cells: dict[str, _Note] = {}

    def report(self, text: str) -> None:
        """Replace the board. Raises RPCError INCORRECT_PARAMETERS beyond :data:`MAX_TEXT_BYTES`."""
        self._board = self._note(text, "the report")

    def board(self) -> dict[str, Any]:
        """The board: ``text``, ``age_s`` (seconds, -1.0 where nothing was reported), ``at`` (seconds since 1970)."""
        return self._struct(self._board)

    def keep(self, key: str, text: str) -> None:
        """Replace one cell; an empty ``text`` empties it.

        Raises RPCError INCORRECT_PARAMETERS for a key that is empty or too long, a cell too many, or too many bytes.
        """
        if not isinstance(key, str) or not 1 <= len(key) <= MAX_KEY_CHARACTERS:
            raise RPCError(Faults.INCORRECT_PARAMETERS, f"a key has 1 to {MAX_KEY_CHARACTERS} characters")
        note = self._note(text, f"the text for {key}")
        if not text:
            self._cells.pop(key, None)
            return
        others = [kept for name, kept in self._cells.items() if name != key]
        if len(others) >= MAX_CELLS:
            raise RPCError(Faults.INCORRECT_PARAMETERS, f"{len(others)} cells are in use, at most {MAX_CELLS} are kept")
        total_bytes = note.size_bytes + sum(kept.size_bytes for kept in others)
        if total_bytes > MAX_CELLS_BYTES:
            raise RPCError(
                Faults.INCORRECT_PARAMETERS,
                f"with {key} the cells would have {total_bytes} bytes, at most {MAX_CELLS_BYTES} are kept; "
                "what was kept before stays",
            )
        self._cells[key] = note

    def kept(self, key: str) -> dict[str, Any]:
        """One cell, in the shape of :meth:`board`; an empty one where nothing was kept under this key."""
        return self._struct(self._cells.get(key) if isinstance(key, str) else None)

    def _note(self, text: str, what: str) -> _Note:
        if not isinstance(text, str):
            raise RPCError(Faults.INCORRECT_PARAMETERS, f"{what} is {type(text).__name__}; send one string")
        size_bytes = len(text.encode("utf-8", "surrogatepass"))
        if size_bytes > MAX_TEXT_BYTES:
            raise RPCError(
                Faults.INCORRECT_PARAMETERS,
                f"{what} has {size_bytes} bytes, at most {MAX_TEXT_BYTES} are kept; what was kept before stays",
            )
        return _Note(text, size_bytes, self._wall(), self._monotonic())

    def _struct(self, note: _Note | None) -> dict[str, Any]:
        if note is None:
            return {"text": "", "age_s": -1.0, "at": 0.0}  # XML-RPC has no null
        return {"text": note.text, "age_s": self._monotonic() - note.since, "at": note.at}


MEMORY = Memory()
