"""One look: roster -> evidence -> decision. It never waits: what waits is done elsewhere and comes in as a value.

Every question is asked only where its answer can matter: a pinned worker whose pulse is read costs one byte and one
look-up; its descriptors, its ticks and its state are read only while the pins do not speak for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from .kernel import proc
from .kernel.errors import Gone, KernelError, Refused
from .kernel.selftest import why_exhausted, why_unreadable
from .ledger import Decision, Ledger, Look, Outcome, Program, Remedy, Restart
from .model import Evidence, HttpOutcome, Member, State, Ticks, Usage, Verdict, WorkerId
from .operations import MOST_WORDS, Pauses, Reply, carry_out, paused_now, run_out, too_old
from .policy import decide
from .probe.pins import Pins
from .probe.target import HEAD_LIMIT, LIMIT_CONCURRENCY, Request, Sight, Target
from .reload import renewed
from .report import events
from .report.notes import told_of
from .settings import ListenSettings, Settings
from .supervisord.request import RELOAD, BadRequest, parse
from .verdict import Ages, Past, newly

LINGERING_S = 10.0
LOOKS_BEFORE_SLIPS = 3
"""TICKs: what starts slowly, or begins as a wrapper, is no slip of the pen."""

REFUSED_AGAIN_LOOKS = 12
"""TICKs until everybody whom the kernel did not show us is tried again: a refusal can pass. (Whose descriptors were
closed to us, and are not any more, is tried at the next TICK.)"""

REPLIES_KEPT = 50

AWAITED_S = 0.2
"""Between looks while a replacement is up and not proven healthy yet: others wait for it, and a look costs little."""

LOOKS_A_SILENCE = 4
"""While a pulse is unread the next look comes after a quarter of silent_after at the latest (design, section 3)."""


_BY_CHOICE = {
    LIMIT_CONCURRENCY: "--limit-concurrency below 20 leaves no room for a connection of ours; path is not asked there",
    HEAD_LIMIT: "--h11-max-incomplete-event-size leaves no room for a head that grows; path is not asked there",
}


@dataclass(frozen=True)
class Snapshot:
    """The roster as it was last read. ``at`` is monotonic; ``shutting_down`` is supervisord's own word."""

    members: tuple[Member, ...] = ()
    at: float = 0.0
    shutting_down: bool = False


@dataclass
class Watch:
    """What is kept between looks: the ledger, the pins, and what has been said already. One thread's affair."""

    settings: ListenSettings
    pins: Pins
    ledger: Ledger = field(default_factory=Ledger)
    pauses: Pauses = field(default_factory=dict)
    replies: tuple[Reply, ...] = ()  # to what was asked, the last of them
    reload: Callable[[str], None] = lambda ident: None  # asks for it; :meth:`reply` is called with the answer
    answers: tuple[tuple[WorkerId, HttpOutcome], ...] = ()  # that came since the last look
    _said: dict[str, object] = field(default_factory=dict)
    _pinned: set[WorkerId] = field(default_factory=set)
    _unpinnable: dict[WorkerId, str] = field(default_factory=dict)
    _lingering: set[WorkerId] = field(default_factory=set)  # unknown for so long that it was told
    _hidden: set[WorkerId] = field(default_factory=set)  # whose descriptors we may not read
    _full_looks: int = 0
    _asked: dict[WorkerId, Request | None] = field(default_factory=dict)  # how, in its present connection

    def look(
        self,
        now: float,
        snapshot: Snapshot,
        *,
        full: bool,
        due_s: float,
        outcomes: Iterable[Outcome] = (),
        usages: Mapping[WorkerId, Usage] | None = None,
    ) -> tuple[Decision, list[events.Event]]:
        """Look at everybody. ``full``: a TICK's look, with HTTP probes; else the pulse alone. ``usages``: what they
        take, as last measured."""
        watched = [member for member in snapshot.members if not member.not_watched]
        told = self._tell_roster(snapshot.members)
        if full:
            told += self._tell_slips(snapshot.members) + self._tell_exhausted()
        evidence, troubles = self._evidence(watched, full, usages or {})
        told += troubles
        self.answers = tuple((worker, seen.http) for worker, seen in evidence.items() if seen.http is not None)
        self.pauses, over = run_out(self.pauses, now)
        paused = paused_now(self.pauses, snapshot.members, now)
        before = self.ledger
        look = Look(snapshot.members, evidence, snapshot.at, due_s, tuple(outcomes), paused, snapshot.shutting_down)
        self.ledger, decision = decide(before, now, look, self.settings.of)
        for order in decision.orders:
            if isinstance(order, Restart) and order.remedy is Remedy.DRAIN:
                self.pins.let_go(order.worker)  # before its TERM: half a head would hold the drain for a second
        told += self._tell_verdicts(before) + self._tell_lingering(now)
        told += [told_of(note) for note in (*over, *decision.notes)]
        return decision, told

    def ask(self, data: str, snapshot: Snapshot, now: float, wall_now: float) -> list[events.Event]:
        """Carry out what a person asks (supervisord/request.py), or refuse it; the answer is among the replies.

        ``wall_now``: seconds since 1970, which is supervisord's clock as well.
        """
        try:
            request = parse(data)
        except BadRequest as bad:
            if bad.ident:
                self.reply(Reply(bad.ident, "", False, str(bad)[:MOST_WORDS]))
            return [events.Error("", f"a request was not understood: {str(bad)[:MOST_WORDS]}", reason="request")]
        if any(reply.ident == request.ident for reply in self.replies):  # an event can come twice
            return []
        if request.verb == RELOAD and not too_old(wall_now - request.sent_at):
            self.reload(request.ident)
            return []
        carried = carry_out(
            request,
            self.ledger,
            self.pauses,
            snapshot.members,
            now,
            self.settings.of,
            age_s=wall_now - request.sent_at,
            shutting_down=snapshot.shutting_down,
        )
        self.ledger, self.pauses = carried.ledger, carried.pauses
        self.reply(carried.reply)
        return [told_of(note) for note in carried.notes]

    def renew(self, settings: ListenSettings) -> None:
        """Look with ``settings`` from the next look on."""
        self.ledger = renewed(self.ledger, self.settings, settings)
        if (self.settings.groups, self.settings.by_group.keys()) != (settings.groups, settings.by_group.keys()):
            self._full_looks = 0  # the roster may not know of them yet
            self._said = {what: said for what, said in self._said.items() if not what.startswith("section ")}
        self.settings = settings

    def reply(self, reply: Reply) -> None:
        """Have it stand on the board."""
        self.replies = (*self.replies, reply)[-REPLIES_KEPT:]

    def next_in_s(self, now: float) -> float:
        """Seconds until the next look is due: the pulse; sooner while somebody is late or a replacement is awaited, and
        at the deadline itself."""
        due_s = self.settings.pulse_s
        ages = Ages(now, self.ledger.gaps)
        for group, program in self.ledger.programs.items():
            settings = self.settings.of(group)
            if any(_is_awaited(program, name) for name in program.ours):
                due_s = min(due_s, AWAITED_S)
            for past in program.workers.values():
                unread_since = past.unread_since if self.pins.is_unread(past.worker) else None
                late_since = unread_since or (past.moved_at if past.still_looks else None)
                if late_since is None or past.verdict is Verdict.SILENT:
                    continue
                due_s = min(due_s, settings.silent_after_s / LOOKS_A_SILENCE)
                age_s = ages.of(late_since)
                for limit_s in (settings.silent_after_s, settings.silent_after_s * settings.busy_factor):
                    if age_s < limit_s:
                        due_s = min(due_s, max(limit_s - age_s, 0.01))
        return due_s

    # -- evidence ---------------------------------------------------------------------------------------------------

    def _evidence(
        self, members: list[Member], full: bool, usages: Mapping[WorkerId, Usage]
    ) -> tuple[dict[WorkerId, Evidence], list[events.Event]]:
        running = {
            member.worker: member for member in members if member.state is State.RUNNING and member.worker is not None
        }
        again = full and self._full_looks % REFUSED_AGAIN_LOOKS == 0
        shown = {
            worker for worker in self._hidden & running.keys() if full and (again or not why_unreadable(worker.pid))
        }
        self._unpinnable = {
            worker: why
            for worker, why in self._unpinnable.items()
            if worker in running and (why in _BY_CHOICE or not (again or worker in shown))
        }
        self._hidden = (self._hidden & running.keys()) - shown
        targets = []
        for worker, member in running.items():
            past = self._past(member)
            stopping = past is not None and past.worker == worker and past.verdict is Verdict.STOPPING
            ours = self._program_ours(member)
            closed = stopping or ours or self._not_serving_yet(worker, member, past)
            wanted = _request(self.settings.of(member.group))
            if self._asked.setdefault(worker, wanted) != wanted and not self.pins.is_unread(worker):
                closed = closed or not self._end_questions(worker, past)
                self._asked[worker] = wanted
            if member.socket is not None and worker not in self._unpinnable and not closed:
                # Its first question does not wait for a TICK: a roll waits for the answer.
                eager = past is None or past.worker != worker or past.http is None
                targets.append(Target(worker, member.socket, member.options, self._asked[worker], eager))
        sights = self.pins.look(targets, may_acquire=True, ask=full)
        told: list[events.Event] = []
        evidence = {}
        for worker, member in running.items():
            sight = sights.get(worker, Sight())
            if self._asked[worker] != _request(self.settings.of(member.group)):
                sight = replace(sight, http=None)  # what it was asked is asked no more
            if sight.pinned and worker not in self._pinned:
                self._pinned.add(worker)
                told.append(events.Pinned(worker))
            told += self._tell_trouble(member, sight)
            evidence[worker] = self._one(worker, member, sight, usages.get(worker))
        self._pinned &= running.keys()
        self._asked = {worker: request for worker, request in self._asked.items() if worker in running}
        return evidence, told

    def _end_questions(self, worker: WorkerId, past: Past | None) -> bool:
        """The settings of the HTTP probe have changed: no answer to the old ones is heard any more.

        (While a pulse is unread this waits: that connection alone shows how long its loop has not turned.) False: it
        has none of ours that can be let go of, and is left out of one look, which ends what it may still owe us.
        """
        if self._unpinnable.get(worker) == HEAD_LIMIT:
            del self._unpinnable[worker]  # another path may be shorter
        self.pins.let_go(worker)
        return past is not None and past.worker == worker and past.pinned

    def _not_serving_yet(self, worker: WorkerId, member: Member, past: Past | None) -> bool:
        """It accepts nothing then: each connect would go to a peer, and after a few the next TICK would be awaited."""
        if past is None or past.worker != worker or past.serving is not False or past.served_since is not None:
            return False
        return self._serving(worker, member) is False

    def _past(self, member: Member) -> Past | None:
        program = self.ledger.programs.get(member.group)
        return program.workers.get(member.name) if program else None

    def _program_ours(self, member: Member) -> bool:
        """After our own TERM the pin is let go, or it would hold the drain."""
        program = self.ledger.programs.get(member.group)
        mine = program.ours.get(member.name) if program else None
        if mine is None or mine.worker != member.worker or not mine.under_way:
            return False
        return mine.remedy is Remedy.DRAIN  # until it is aborted, whether it turns again is worth knowing

    def _one(self, worker: WorkerId, member: Member, sight: Sight, usage: Usage | None) -> Evidence:
        if sight.pinned and sight.unread_since is None:
            return Evidence(worker, pinned=True, lag_s=sight.lag_s, http=sight.http, usage=usage)
        past = self._past(member)
        known_to_serve = sight.pinned and past is not None and past.worker == worker and past.serving is True
        state, tracer = _state(worker)
        if state in ("Z", "X"):
            return Evidence(worker, process_state=state)
        serving = None if known_to_serve else self._serving(worker, member)
        return Evidence(
            worker,
            serving=serving,
            hidden=worker in self._hidden,
            pinnable=member.socket is not None and worker not in self._unpinnable,
            pinned=sight.pinned,
            unread_since=sight.unread_since,
            lag_s=sight.lag_s,
            queued_since=sight.queued_since,
            ticks=_ticks(worker),
            http=sight.http,
            process_state=state,
            traced_by=tracer,
            usage=usage,
        )

    def _serving(self, worker: WorkerId, member: Member) -> bool | None:
        try:
            links = proc.descriptors(worker.pid)
            watched = proc.epoll_watched_inodes(worker.pid, links)
        except Refused as refused:
            if worker not in self._hidden:
                self._hidden.add(worker)
                self._unpinnable[worker] = str(why_unreadable(worker.pid) or refused)
            return None
        except KernelError:
            return None
        if not any(proc.is_epoll(link) for link in links.values()) and self._has_rhythm(member):
            return None  # a loop of another kind (select, poll), whose sockets no file shows
        return member.socket_inode in watched if member.socket_inode is not None else False

    def _has_rhythm(self, member: Member) -> bool:
        past = self._past(member)
        return past is not None and past.worker == member.worker and past.rhythm_looks > 0

    # -- what is told -----------------------------------------------------------------------------------------------

    def _tell_trouble(self, member: Member, sight: Sight) -> list[events.Event]:
        """Why a worker cannot be pinned: once per worker and cause."""
        worker = member.worker
        if sight.trouble and not sight.pinnable and worker is not None:
            self._unpinnable.setdefault(worker, sight.trouble)
            if sight.trouble not in _BY_CHOICE and why_unreadable(worker.pid):
                self._hidden.add(worker)
        why = sight.trouble or (self._unpinnable.get(worker, "") if worker else "")
        key = f"trouble {member.name}"
        if not why and sight.pinned:
            self._said.pop(key, None)
        if not why or self._said.get(key) == (worker, why):  # the latter: it was tried again, and refused again
            return []
        self._said[key] = worker, why
        if why in _BY_CHOICE:
            return [events.TicksAlone(member.name, f"is watched by its ticks alone: {_BY_CHOICE[why]}", why, worker)]
        return [events.Error(member.name, f"is watched by its ticks alone: {why}", reason="not pinned", worker=worker)]

    def _tell_exhausted(self) -> list[events.Event]:
        """That nothing can be seen for a lack of descriptors: once a series."""
        lack = why_exhausted()
        before, self._said["exhausted"] = self._said.get("exhausted"), lack is not None
        return [] if lack is None or before else [events.Error("", str(lack), reason="descriptors")]

    def _tell_roster(self, members: tuple[Member, ...]) -> list[events.Event]:
        told: list[events.Event] = []
        programs: dict[str, tuple[list[str], set[str]]] = {}
        unseen = {worker.group for worker in self._unpinnable}
        for member in members:
            if member.not_watched:
                if self._said.get(member.name) != member.not_watched:
                    self._said[member.name] = member.not_watched
                    told.append(events.NotWatched(member.name, member.not_watched))
                continue
            names, sockets = programs.setdefault(member.group, ([], set()))
            names.append(member.name)
            if member.socket is not None:
                sockets.add(str(member.socket))
        for group, (names, sockets) in programs.items():
            known = (tuple(names), ", ".join(sorted(sockets)) or "a socket that cannot be seen from here")
            if (sockets or group in unseen) and self._said.get(group) != known:
                self._said[group] = known
                told.append(events.Watching(group, known[1], known[0]))
        return told

    def _tell_slips(self, members: tuple[Member, ...]) -> list[events.Event]:
        """What is written for a program that is not there is a slip of the pen, and so is a site without any."""
        programs = sorted({member.group for member in members})
        told: list[events.Event] = []
        self._full_looks += 1
        if self._full_looks < LOOKS_BEFORE_SLIPS:
            return told
        missing = sorted(set(self.settings.groups) - set(programs))
        nobody = f"--group names {', '.join(missing)}, and there is no uvicorn worker in it" if missing else ""
        if not programs and not missing:
            nobody = (
                "no uvicorn worker found among supervisord's processes: a worker is one whose command is uvicorn, "
                "python -m uvicorn or supervisor-uvicorn serve; a program that calls uvicorn.run() is not recognised"
            )
        if self._said.get("nobody", "") != nobody:
            self._said["nobody"] = nobody
            told += [events.Error("", nobody, reason="nobody")] if nobody else []
        for group in sorted(self.settings.by_group.keys() - set(programs)):
            if self._said.setdefault(f"section {group}", "") == "":
                self._said[f"section {group}"] = "told"
                known = ", ".join(programs) or "none yet"
                what = (
                    f"[supervisor-uvicorn:{group}] is for a program that is not here (programs with uvicorn: {known})"
                )
                told.append(events.Error("", what, reason="settings"))
        return told

    def _tell_verdicts(self, before: Ledger) -> list[events.Event]:
        told: list[events.Event] = []
        for group, program in self.ledger.programs.items():
            old = before.programs[group].workers.values() if group in before.programs else ()
            for past, was in newly(list(old), list(program.workers.values())):
                if past.verdict is Verdict.UNKNOWN and (was is None or was.verdict is Verdict.STARTING or past.ended):
                    continue  # that we do not know yet, or that a process has ended, is no news
                mine = program.ours.get(past.name)
                if past.verdict is Verdict.UNKNOWN and mine is not None and mine.worker == past.worker:
                    continue  # it drains, and its pin was let go for it
                told.append(
                    events.VerdictChanged(
                        past.name, past.worker, past.verdict, past.reason, was.verdict if was else None
                    )
                )
        return told

    def _tell_lingering(self, now: float) -> list[events.Event]:
        """Whoever stays unknown is reported too, once: nothing will be done about it."""
        ages = Ages(now, self.ledger.gaps)
        told: list[events.Event] = []
        unknown: set[WorkerId] = set()
        for group, program in self.ledger.programs.items():
            limit_s = max(LINGERING_S, self.settings.of(group).silent_after_s)
            for past in program.workers.values():
                if past.worker is None or past.verdict is not Verdict.UNKNOWN or past.state is not State.RUNNING:
                    continue
                unknown.add(past.worker)
                if past.worker not in self._lingering and ages.of(past.since) >= limit_s:
                    self._lingering.add(past.worker)
                    told.append(events.VerdictChanged(past.name, past.worker, past.verdict, past.reason, past.verdict))
        self._lingering &= unknown
        return told


def _is_awaited(program: Program, name: str) -> bool:
    past, mine = program.workers.get(name), program.ours[name]
    return past is not None and past.state is State.RUNNING and past.worker != mine.worker


def _request(settings: Settings) -> Request | None:
    if settings.path is None:
        return None
    return Request(settings.path, settings.host, settings.headers, settings.expect, settings.timeout_s)


def _ticks(worker: WorkerId) -> Ticks | None:
    try:
        ticks = proc.ticks(worker.pid)
        return ticks if proc.born(worker.pid) == worker.born else None
    except KernelError:
        return None


def _state(worker: WorkerId) -> tuple[str, int]:
    try:
        status = proc.status(worker.pid)
    except Gone:
        return "X", 0
    except KernelError:
        return "", 0
    return status.state, status.tracer_pid


def workers(ledger: Ledger) -> Mapping[str, Past]:
    """All workers of a ledger by name."""
    return {name: past for program in ledger.programs.values() for name, past in program.workers.items()}
