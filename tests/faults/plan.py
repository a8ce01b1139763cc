"""What the campaign does, from a seed: which worker is made sick when and how, and what else goes wrong meanwhile.

Pure: the same seed gives the same plan. What becomes of it (pids, when a TICK falls) is the machine's affair.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

WORKERS = ("web-0", "web-1", "web-2", "web-3")
SOCKETS = ("tcp", "unix", "tls")

SILENT_AFTER_S = 2.0
START_TIMEOUT_S = 12.0
PULSE_S = 1.0
TICK_S = 5.0
PROBE_TIMEOUT_S = 3.0
STOPWAIT_S = 5.0
ASKED_APART_S = 2.5  # of wrong answers asked closer together only the first counts (verdict.py)

SLACK_S = 2.5
"""What a loaded machine may add: the last look before a restart, which takes 0.1 to 2 s, and our own looking on."""

REPLACED_S = 10.0
"""From a worker's end until its successor is called healthy, at the most; others may have to wait for that."""

ALL_AT_ONCE = 0.18
"""The share of rounds in which every worker is made sick."""


@dataclasses.dataclass(frozen=True)
class Sick:
    """A way to make one worker sick. Seconds from the fault to the ``restart`` event, where nothing else is wrong."""

    reason: str  # what the listener must give as its reason
    least_s: float
    most_s: float
    operator: bool = False  # takes a stop and start through supervisord
    peers: bool = False  # what its peers answer and whether they serve decides when it goes


_SILENT = Sick("silent", SILENT_AFTER_S - 0.05, SILENT_AFTER_S + PULSE_S + SLACK_S)
# busy_factor is 2; how busy it is depends on who else wants the CPU, so it may also go as one that waits.
_SPIN = Sick("silent", SILENT_AFTER_S - 0.05, 2 * SILENT_AFTER_S + PULSE_S + SLACK_S)
# Wrong three times, on each TICK: the first may come at once; the third one's answer may take its time-out.
_FAILING = Sick("failing", 2 * TICK_S - 1.0, 3 * TICK_S + PROBE_TIMEOUT_S + SLACK_S, peers=True)
_START = Sick("start_timeout", START_TIMEOUT_S - 0.5, START_TIMEOUT_S + 2 * PULSE_S + SLACK_S, operator=True)

SICK: dict[str, Sick] = {
    **dict.fromkeys(("sleep", "lock", "read", "gil"), _SILENT),
    "spin": _SPIN,
    "stop": _SILENT,  # SIGSTOP
    # Hung before it was ever pinned: its ticks tell, from the moment at which it serves (or its first look).
    "unpinned": dataclasses.replace(_SILENT, least_s=SILENT_AFTER_S - 0.3, most_s=_SILENT.most_s + 2, operator=True),
    "start-hang": _START,  # awaits for ever in its lifespan
    "start-block": _START,  # blocks there
    **dict.fromkeys(("500", "404", "slow:10", "drip", "endless", "close", "garbage"), _FAILING),
}

HARMLESS: dict[str, float] = {
    "block": 1.5,  # the loop blocks for 0.75 of silent_after
    "lag": 4.0,  # for 50 ms again and again
    "pause": 1.3,  # SIGSTOP, and CONT before silent_after
    "slow-start": 7.0,
    "blocked-start": 7.0,
    # Attached and stopped for longer than silent_after, and for less than uvicorn keeps an idle connection (5 s): after
    # such a stop its timer fires before what lies in the socket is read.
    "debugger": 4.0,
    "max-requests": 4.0,  # it ends by itself
    "operator-restart": 3.0,
    "operator-stop": 6.0,
    "all-flood": 12.0,  # a health answer that never ends to be long
    "all-slow": 12.0,  # 1 s, and 3 s are allowed
    "all-500": 24.0,  # all fail alike: panic, and nothing is done for 60 s
}
"""What must not be acted upon, and for how many seconds it makes a worker unavailable or late."""

BY_OPERATOR = frozenset({"slow-start", "blocked-start", "operator-restart", "operator-stop"})
WHOLE = ("all-flood", "all-slow", "all-500")

STEPS = ("any", "verdict", "restart", "ended", "spawned")
"""When the listener is killed: at any moment, when it has called the worker sick, when it has said that it restarts it,
when the worker is gone, when its successor is there."""

SURROUNDINGS = (
    "supervisord-paused",
    *(f"rpc-{mode}" for mode in ("late", "dead", "cut", "garbled", "wrong", "refused", "status-500")),
    "proc-fd",
    "proc-all",
    "emfile",
    "log-full",
    "clock-forward",
    "clock-back",
    "cpu-limit",
    "memory-limit",
    "listener-paused",
    *(f"listener-killed-{step}" for step in STEPS),
)

PINS_LOST = ("listener-", "memory-", "proc-")
"""Beginnings of those in which the listener may have to pin everybody anew. A worker that spins meanwhile cannot be:
that is a blind spot (docs/how-it-works.rst), and the campaign does not ask for what is not promised."""

PINNED_AGAIN_S = 12.0
"""Pause behind such a round: whose descriptors can be read again is pinned at the next TICK."""

RECOVERY_S = {
    # A remedy that was called off is tried again after 5 s, doubling while the same brake holds it (policy.py), so
    # after 10 s of trouble within 20 s; one in doubt after the next roster.
    "supervisord-": 20.0,
    "rpc-": 20.0,
    # A new listener, or one that could not read /proc until now, pins first; the latter at the next TICK.
    "listener-": 12.0,
    "memory-": 12.0,
    "proc-": 12.0,
    # Nothing is lost; what could not be seen or done meanwhile is by the next looks.
    "emfile": 5.0,
    "cpu-": 5.0,
    "log-": 2.0,
    "clock-": 2.0,
}
"""How long after the end of trouble everything is as before, by how its name begins."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """One thing to be done in a round. ``worker`` is empty for what concerns them all, or none of them."""

    what: str
    at_s: float  # after the round's begin
    worker: str = ""
    for_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class Round:
    """Faults that belong together: the next round begins when all workers are healthy again."""

    number: int
    sick: tuple[Fault, ...]
    harmless: tuple[Fault, ...] = ()
    surroundings: Fault | None = None
    pause_s: float = 0.0  # before it, so that it begins at another moment between two TICKs

    @property
    def pins_lost(self) -> bool:
        """May the listener have to pin everybody anew?"""
        return self.surroundings is not None and self.surroundings.what.startswith(PINS_LOST)

    def bound_s(self, fault: Fault) -> float:
        """How long the restart of this sick worker may take, all that goes on beside it considered."""
        kind = SICK[fault.what]
        others = [other for other in self.sick if other is not fault]
        bound_s = kind.most_s if len(self.reasons(fault)) == 1 else max(kind.most_s, _FAILING.most_s)
        if kind.peers:  # drained only when all others are well again, and one at a time
            bound_s += max((other.at_s + SICK[other.what].most_s for other in others), default=0.0)
            bound_s += sum(harm.at_s + HARMLESS[harm.what] for harm in self.harmless)
            bound_s += sum(TICK_S for other in others if SICK[other.what].peers)  # judged anew by three answers
        bound_s += REPLACED_S * len(others)
        if self.surroundings is not None:
            bound_s += self.surroundings.at_s + self.surroundings.for_s
            bound_s += next(s for name, s in RECOVERY_S.items() if self.surroundings.what.startswith(name))
            if kind.peers and self.pins_lost:
                bound_s += 3 * TICK_S  # its three answers are counted anew
        return bound_s

    def reasons(self, fault: Fault) -> tuple[str, ...]:
        """What the listener may call it."""
        slow = any(harm.what == "all-slow" for harm in self.harmless)
        if fault.what == "spin" and slow:
            # It began while a question was open, whose answer then never comes; and it cannot be pinned again.
            return SICK[fault.what].reason, "failing"
        return (SICK[fault.what].reason,)

    def least_s(self, fault: Fault) -> float:
        """How long it must take at least. TICKs follow the wall clock, and come closer together when that jumps."""
        kind = SICK[fault.what]
        around = self.surroundings.what if self.surroundings is not None else ""
        if kind.peers and around.startswith(("clock-", "supervisord-")):
            return 2 * ASKED_APART_S
        return kind.least_s


class _Deck:
    """Each kind once before any comes again, in an order by chance."""

    def __init__(self, kinds: Sequence[str], chance: random.Random) -> None:
        self._kinds, self._chance = kinds, chance
        self._left: list[str] = []

    def draw(self, allowed: Sequence[str]) -> str:
        """The next one that is allowed here."""
        if not any(kind in allowed for kind in self._left):
            self._left += self._chance.sample(self._kinds, len(self._kinds))
        kind = next(kind for kind in self._left if kind in allowed)
        self._left.remove(kind)
        return kind


def plan(seed: int, socket: str, faults: int, surroundings: Sequence[str] = SURROUNDINGS) -> list[Round]:
    """Rounds with ``faults`` sick workers in all. ``surroundings``: those that can be had on this machine."""
    chance = random.Random(f"{seed}:{socket}")
    sick, harmless = _Deck(list(SICK), chance), _Deck(list(HARMLESS), chance)
    around = _Deck(list(surroundings), chance) if surroundings else None
    rounds: list[Round] = []
    left = faults
    while left > 0:
        trouble = None
        if around is not None and chance.random() < 0.45:
            kind = around.draw(surroundings)
            trouble = Fault(kind, round(chance.uniform(0, 3), 2), for_s=round(chance.uniform(3, 9), 2))
        number = _how_many(chance, left)
        ill = _ill(chance, sick, number, trouble)
        well = _well(chance, harmless, ill, trouble) if chance.random() < 0.6 else ()
        pause_s = round(chance.uniform(0, TICK_S), 2)
        if rounds and rounds[-1].pins_lost:
            pause_s += PINNED_AGAIN_S
        rounds.append(Round(len(rounds), ill, well, trouble, pause_s))
        left -= number
    return rounds


def _how_many(chance: random.Random, left: int) -> int:
    if chance.random() < ALL_AT_ONCE:
        return min(left, len(WORKERS))
    return min(left, chance.choices((1, 2, 3), (55, 30, 15))[0])


def _ill(chance: random.Random, deck: _Deck, number: int, trouble: Fault | None) -> tuple[Fault, ...]:
    found: list[Fault] = []
    around = trouble.what if trouble is not None else ""
    paused, blind = around == "supervisord-paused", around.startswith(PINS_LOST)
    for worker in chance.sample(WORKERS, number):
        failing = sum(SICK[fault.what].peers for fault in found)
        # Where more than half fail it is panic, and nobody is to be restarted: that is among the harmless.
        allowed = [k for k, its in SICK.items() if not (its.operator and paused) and not (its.peers and failing >= 2)]
        if blind:
            allowed.remove("spin")
        found.append(Fault(deck.draw(allowed), round(chance.uniform(0, 3), 2), worker))
    return tuple(found)


def _well(chance: random.Random, deck: _Deck, ill: tuple[Fault, ...], trouble: Fault | None) -> tuple[Fault, ...]:
    free = [worker for worker in WORKERS if worker not in {fault.worker for fault in ill}]
    failing = any(SICK[fault.what].peers for fault in ill)
    allowed = [kind for kind in HARMLESS if kind not in WHOLE and free]
    if trouble is not None and trouble.what == "supervisord-paused":
        allowed = [kind for kind in allowed if kind not in BY_OPERATOR]
    if not failing and trouble is None:
        allowed += WHOLE
    if not allowed:
        return ()
    kind = deck.draw(allowed)
    worker = "" if kind in WHOLE else chance.choice(free)
    return (Fault(kind, round(chance.uniform(0, 4), 2), worker, HARMLESS[kind]),)
