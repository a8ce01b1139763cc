"""NAME as a person types it, and as supervisorctl reads it: ``web``, ``web:*``, ``web:web-0``, ``all``. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class NoSuchName(Exception):  # noqa: N818 - it reads as what it is
    """A NAME that means nobody; the message says which names there are."""


def chosen(known: Iterable[str], names: Sequence[str]) -> list[str]:
    """The ``group:name`` of ``known`` that NAMEs mean, each once; all of them where there is no NAME.

    Raises :class:`NoSuchName` for a NAME that means nobody.

    >>> chosen(["web:web-0", "web:web-1", "api:api"], ["web:web-1", "api"])
    ['web:web-1', 'api:api']
    """
    every = list(known)
    if not names or "all" in names:
        return every
    found: dict[str, None] = {}
    for name in names:
        matching = [one for one in every if means(name, one)]
        if not matching:
            groups = ", ".join(sorted({one.partition(":")[0] for one in every})) or "none"
            raise NoSuchName(f"{name}: no such uvicorn worker or program (programs here: {groups})")
        found.update(dict.fromkeys(matching))
    return list(found)


def means(name: str, worker: str) -> bool:
    """Does this NAME mean the worker ``group:name``?"""
    group, _, process = name.partition(":")
    return name in ("all", worker) or (group == worker.partition(":")[0] and process in ("", "*"))
