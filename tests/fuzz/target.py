"""One target: what it reads, what it starts from, and what must hold for every input."""

from __future__ import annotations

import ast
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"

Check = Callable[[bytes], None]


class Violation(AssertionError):  # noqa: N818 - it reads as what it is
    """A property that did not hold; the message says which."""


def holds(condition: object, words: str) -> None:
    """Raises :class:`Violation` with ``words`` where ``condition`` is false."""
    if not condition:
        raise Violation(words)


def for_a_terminal(text: str, where: str) -> None:
    """Nothing in ``text`` but printable characters and line ends. Raises :class:`Violation`.

    ``str.isprintable`` refuses control characters, bidirectional overrides, line separators and lone surrogates.
    """
    if not text.replace("\n", "").isprintable():
        for char in text:
            holds(char == "\n" or char.isprintable(), f"{where} carries {char!r} to the terminal: {text[:200]!r}")


@dataclass(frozen=True)
class Target:
    """``session`` gives the check of one input; what it needs (patches, sockets) lasts as long as the session.

    ``weight``: its part of the inputs of a campaign, beside that of the others. ``most_bytes``: no input is longer.
    ``tokens`` are words of the format, for both engines.
    """

    name: str
    reads: str  # what is fuzzed, for the table in the docs
    session: Callable[[], AbstractContextManager[Check]]
    seeds: tuple[bytes, ...]
    tokens: tuple[bytes, ...] = ()
    weight: float = 1.0
    most_bytes: int = 2048

    def corpus(self) -> list[bytes]:
        """The seeds, and what earlier campaigns have found and kept."""
        file = CORPUS / f"{self.name}.txt"
        lines = file.read_text("ascii").splitlines() if file.exists() else []
        return [*self.seeds, *(ast.literal_eval(line) for line in lines)]


def keep(name: str, inputs: list[bytes]) -> None:
    """Write a target's corpus anew, a Python literal a line: a diff shows what was added."""
    CORPUS.mkdir(exist_ok=True)
    (CORPUS / f"{name}.txt").write_text("".join(f"{one!r}\n" for one in inputs), "ascii")
