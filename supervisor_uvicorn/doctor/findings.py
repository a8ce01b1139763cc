"""A trap that is known, and one that was found. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

SEVERITIES = ("error", "warning", "advice")
"""``error``: something does not work at all, or is open to everybody. ``warning``: it fails on the day it is needed.
``advice``: it works, and would be better so."""


@dataclass(frozen=True)
class Trap:
    """One thing that can be found: ``name`` is short and stays the same for ever, the rest is for people.

    ``write`` is what to write instead, as an example; a :class:`Finding` may have it exactly. ``cause`` is the source
    of the rule: a file and version of supervisor or uvicorn, a man page, or what we measured.
    """

    name: str
    severity: str
    wrong: str
    why: str
    write: str
    cause: str


@dataclass(frozen=True)
class Finding:
    """A trap in its place. ``file`` and ``section`` are "" and ``line`` is 0 where it stands in no file."""

    trap: Trap
    found: str  # the very words
    file: str = ""
    section: str = ""
    line: int = 0
    write: str = ""
    detail: str = ""  # what this one is more than every one of its kind

    @property
    def wrong(self) -> str:
        return f"{self.trap.wrong} {self.detail}".strip()

    def as_json(self) -> dict[str, Any]:
        """The object of ``--json``: what is not known is null."""
        return {
            "name": self.trap.name,
            "severity": self.trap.severity,
            "file": self.file or None,
            "section": self.section or None,
            "line": self.line or None,
            "found": self.found,
            "wrong": self.wrong,
            "why": self.trap.why,
            "write": self.write or self.trap.write,
        }


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first, then as they stand in the files; each once."""
    every = list(dict.fromkeys(findings))
    return sorted(every, key=lambda one: (SEVERITIES.index(one.trap.severity), one.file, one.line))
