"""Settings without a restart: what has changed, and what that does to what is remembered. Pure, as policy.py is.

What is under way is finished as it was begun: a remedy keeps its ``drain_timeout`` and ``abort_wait``, and goes on
where ``dry_run`` is set meanwhile. What was *held* or *counted* is seen with the new settings at the next look. Three
things that are remembered are made to fit:

* Answers. Another path (or host, header, expect, timeout) is another question: "it has answered right" and "it has
  answered wrong" were said of the old one. Were they kept, a slip of the pen in ``path`` would make every worker fail,
  and a canary would be ended. So nobody is judged for answers before somebody has answered right (brake ``path``).
* Limits. Who was over the old one has to pass the new one in two measurements of its own.
* Backoffs. Each name remembers how long it waits, which may be longer than the new ``backoff`` ever says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .brakes import Waiting
from .ledger import Ledger, Program
from .panic import Panic
from .settings import ENTRIES, Backoff, Entry, ListenSettings, Settings

MOST_CHARACTERS = 80  # of a value, in an answer


@dataclass(frozen=True)
class Changes:
    """Each as ``silent_after 30 -> 20 (web)``: ``applied`` counts from now on, ``at_start`` after the next start."""

    applied: tuple[str, ...] = ()
    at_start: tuple[str, ...] = ()


def changes(before: ListenSettings, after: ListenSettings) -> Changes:
    """What is different. A change of the general section stands without a program's name, and one in a program's own
    section where it is not the same one. What may be a secret is not written out.

    >>> changes(ListenSettings(pulse_s=1.0), ListenSettings(pulse_s=0.5, log_format="json"))
    Changes(applied=('pulse 1 -> 0.5',), at_start=('log_format text -> json',))
    """
    applied: list[str] = []
    at_start: list[str] = []
    for entry in ENTRIES:
        found = at_start if entry.at_start else applied
        if entry.scope == "listener":
            found += _words(entry, getattr(before, entry.field), getattr(after, entry.field), "")
            continue
        general = getattr(before.general, entry.field), getattr(after.general, entry.field)
        found += _words(entry, *general, "")
        for group in sorted(before.by_group.keys() | after.by_group.keys()):
            own = getattr(before.of(group), entry.field), getattr(after.of(group), entry.field)
            if own != general:
                found += _words(entry, *own, f" ({group})")
    return Changes(tuple(applied), tuple(at_start))


def _words(entry: Entry, before: Any, after: Any, where: str) -> list[str]:
    if before == after:
        return []
    if entry.kind.secret:
        return [f"{entry.key} has changed{where}"]
    return [f"{entry.key} {_short(entry.kind.write(before))} -> {_short(entry.kind.write(after))}{where}"]


def _short(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 3] + "..."


def in_force(before: ListenSettings, loaded: ListenSettings) -> ListenSettings:
    """``loaded``, with what counts only at the start as it was ``before``."""
    return replace(loaded, **{entry.field: getattr(before, entry.field) for entry in ENTRIES if entry.at_start})


def renewed(ledger: Ledger, before: ListenSettings, after: ListenSettings) -> Ledger:
    """The ledger as it is to be looked at with ``after``."""
    programs = {
        group: forget_limits(
            fit_backoff(forget_answers(program, before.of(group), after.of(group)), after.of(group).backoff),
            before.of(group),
            after.of(group),
        )
        for group, program in ledger.programs.items()
    }
    return replace(ledger, programs=programs)


def forget_answers(program: Program, before: Settings, after: Settings) -> Program:
    """``program`` without what it knows of answers, where another question is asked from now on.

    >>> known = Program(right_ever=True)
    >>> forget_answers(known, Settings(path="/a"), Settings(path="/a", failing_after=1)).right_ever
    True
    >>> forget_answers(known, Settings(path="/a"), Settings(path="/b")).right_ever
    False
    """
    if _question(before) == _question(after):
        return program
    return replace(
        program,
        workers={
            name: replace(past, http=None, wrong=0, wrong_asked_at=None, right_ever=False, answers_right=False)
            for name, past in program.workers.items()
        },
        right_ever=False,
        panic=Panic(),
        # A canary that is called off gives the panic back in which it was sent.
        ours={name: replace(mine, panic_before=None) for name, mine in program.ours.items()},
    )


def forget_limits(program: Program, before: Settings, after: Settings) -> Program:
    """``program`` without what was counted against another limit: two measurements have to pass the new one."""
    if _limits(before) == _limits(after):
        return program
    return replace(program, workers={name: replace(past, over=()) for name, past in program.workers.items()})


def _limits(settings: Settings) -> tuple[object, ...]:
    return settings.max_rss_bytes, settings.max_age, settings.max_fds


def _question(settings: Settings) -> tuple[object, ...] | None:
    """What is asked, and what is taken for a right answer."""
    if settings.path is None:
        return None
    return settings.path, settings.host, settings.headers, settings.expect, settings.timeout_s


def fit_backoff(program: Program, backoff: Backoff) -> Program:
    """No name waits longer than ``backoff`` says now; nobody waits where it is switched off."""
    waiting, recycled = (_at_most(each, backoff.longest_s) for each in (program.waiting, program.recycled))
    return replace(program, waiting=waiting, recycled=recycled)


def _at_most(waiting: Mapping[str, Waiting], longest_s: float) -> dict[str, Waiting]:
    if longest_s <= 0:
        return {}
    return {name: replace(one, wait_s=min(one.wait_s, longest_s)) for name, one in waiting.items()}
