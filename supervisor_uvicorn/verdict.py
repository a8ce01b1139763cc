"""What we hold of one worker: evidence of one look + what is remembered of it -> a verdict. Pure.

Two questions, never mixed. *Does the loop turn?* is a local fact about one process, and ending that process
helps. *Are the answers right?* may be the fault of something else altogether. So a worker is first asked whether it
is there and serves, then whether its loop turns, and only then what it answers:

    not RUNNING ............ starting, stopping or unknown, as supervisord's state says; never judged
    not serving yet ........ starting; overdue after start_timeout
    not serving any more ... stopping
    a pulse lies unread .... silent after silent_after (times busy_factor while it burns CPU), in three looks or more
    not pinned ............. silent when no tick came for as long; unknown while it wakes
    wrong answers .......... failing after failing_after, one after another
    else ................... healthy

The two roads to *silent* are not alike. A pulse that lies unread is an observation: this process holds that connection
and has not read from it. A missing tick is one as well: uvicorn's own loop wakes ten times a second (uvicorn 0.30 to
0.54, server.py ``main_loop``), so a main thread that neither switched nor used CPU is blocked. But a main thread that
burns CPU without ever sleeping may be a spin or merely saturated, and without a pin nothing tells which; only when a
connection of ours lies in the accept queue all that time has no loop of that socket turned.

Ages are measured with :class:`Ages`, which leaves out the time in which *we* did not look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .frozen import replace
from .limits import FRESH_S, TWICE, Over, counted, over
from .model import Answer, Evidence, HttpOutcome, Member, State, Ticks, Usage, Verdict, WorkerId
from .settings import Settings

LOOKS_BEFORE_SILENT = 3
"""A pulse must have been seen unread in so many looks: one late look of ours is not evidence (design, section 6)."""

LOOKS_APART = 8
"""Of looks closer together than this part of silent_after only the first counts: TICKs come doubled and in bursts
(facts/supervisor: one that was rejected is sent again), and three looks in a millisecond are one."""

BUSY_SHARE = 0.5
"""Above this share of the time on a CPU, or waiting for one, a silent worker computes rather than waits (anchors, 1.3
``busy_factor``)."""

JUST_SENT_S = 0.05
"""A pulse that was sent in this very look says nothing yet; the one before it was read, or the connection accepted."""

RHYTHM_PER_S = 5.0
"""uvicorn's idle main loop switches ten times a second; half of that is taken for the rhythm of a serving worker where
its descriptors may not be read."""

RHYTHM_LOOKS = 3
ENDED = "it has ended; supervisord will say so"
RHYTHM_APART_S = 0.5
"""Over less time than this a rate of ten a second says nothing."""

TICK_FRESH_S = 0.5
"""A loop that has not been seen to wake for so long does not turn; uvicorn's wakes each 0.1 s."""

ASKED_APART_S = 2.5
"""Half of supervisord's shortest TICK (5 s; supervisor 4.3.0, events.py ``Tick5Event``): of two probes that were asked
closer together, because a TICK came doubled, only the first wrong answer counts."""


@dataclass(frozen=True)
class Ages:
    """How old a moment is, without the gaps in our own clock that fell after it ("forgive ourselves")."""

    now: float
    gaps: tuple[tuple[float, float], ...] = ()  # (when it ended, seconds to forgive)

    def of(self, moment: float) -> float:
        """Seconds since ``moment``, the forgiven ones left out; never negative."""
        return max(0.0, self.now - moment - sum(gap_s for ended, gap_s in self.gaps if ended > moment))


@dataclass(frozen=True)
class Past:
    """What is remembered of one worker (one pid) from look to look."""

    name: str
    worker: WorkerId | None
    first_seen: float
    state: State = State.UNKNOWN
    looked: bool = False  # this look showed anything at all of it
    verdict: Verdict = Verdict.UNKNOWN
    reason: str = ""
    since: float = 0.0  # of the verdict
    lag_s: float | None = None
    # serving
    serving: bool | None = None
    served_since: float | None = None
    overdue: bool = False  # not serving after start_timeout
    turns: bool = False  # its loop was seen to turn at this look
    # pulse
    pinned: bool = False
    unread_since: float | None = None
    unread_looks: int = 0  # far enough apart
    unread_look_at: float = 0.0  # the last of them
    unread_from: tuple[float, Ticks] | None = None  # the ticks at the first look at which it was unread
    # ticks
    ticks: Ticks | None = None
    ticks_at: float = 0.0
    moved_at: float = 0.0  # last look at which a switch or CPU time moved
    switched_at: float = 0.0  # last look at which a voluntary switch moved
    still_looks: int = 0  # looks in a row, far enough apart, at which nothing moved
    still_look_at: float = 0.0
    awake_looks: int = 0  # the same, at which it had not slept, whether it used CPU or not
    awake_look_at: float = 0.0
    woke_at: float | None = None  # last look that saw a switch, so that the first look at its ticks proves nothing
    rhythm_looks: int = 0
    # answers
    http: HttpOutcome | None = None
    wrong: int = 0
    wrong_asked_at: float | None = None  # when the last of them was asked
    right_ever: bool = False
    answers_right: bool = False  # the last answer that counted was right
    traced_by: int = 0
    # what it takes
    usage: Usage | None = None
    over: tuple[Over, ...] = ()  # each limit that it was over at the last measurement

    @property
    def over_limit(self) -> Over | None:
        """The limit that it is certainly over."""
        return next((one for one in self.over if one.times >= TWICE), None)

    @property
    def ended(self) -> bool:
        """Its process is gone, or a zombie, and supervisord has not said so yet."""
        return self.verdict is Verdict.UNKNOWN and self.reason == ENDED

    @property
    def serves(self) -> bool:
        """True while it is known to take connections: what the brakes count. What we cannot see does not count."""
        return (
            self.state is State.RUNNING
            and self.looked
            and self.served_since is not None
            and self.verdict not in (Verdict.STARTING, Verdict.STOPPING, Verdict.SILENT)
        )

    @property
    def may_serve(self) -> bool:
        """True unless it is known that it does not: "nobody serves" is only said of workers that we can see."""
        return self.serves or (self.state is State.RUNNING and not self.looked)

    @property
    def late(self) -> bool:
        """Its loop has not turned since an earlier look; not yet silent. No peer to lean on when another is drained."""
        return not self.turns and (self.unread_since is not None or self.still_looks > 0)


def judge(past: Past | None, member: Member, seen: Evidence | None, ages: Ages, settings: Settings) -> Past:
    """The worker's memory after this look. ``past`` is dropped where the pid is a new one.

    >>> from supervisor_uvicorn.model import Member, State
    >>> judge(None, Member("web:web-0", State.STARTING), None, Ages(10.0), Settings()).verdict.value
    'starting'
    """
    now = ages.now
    worker = member.worker
    if past is None or (worker is not None and past.worker is not None and past.worker != worker):
        past = Past(member.name, worker, now, since=now, moved_at=now, switched_at=now)
    elif past.worker is None and worker is not None:
        past = Past(member.name, worker, now, since=past.since, verdict=past.verdict, moved_at=now, switched_at=now)
    past = replace(past, state=member.state, turns=False, looked=False)
    if member.state is not State.RUNNING:
        return _not_running(past, member, now)
    if worker is None or seen is None:
        why = "not looked at" if worker else "RUNNING in supervisord, but the kernel does not show its process to us"
        return _set(replace(past, overdue=False, lag_s=None), Verdict.UNKNOWN, why, now)
    past = _remember(past, seen, ages, settings)
    if seen.process_state in ("Z", "X"):
        return _set(replace(past, overdue=False), Verdict.UNKNOWN, ENDED, now)
    if not seen.pinned and seen.serving is None and seen.ticks is None:
        return _set(replace(past, overdue=False), Verdict.UNKNOWN, "nothing can be read of it", now)
    past = replace(past, looked=True, turns=_turns(past, seen, ages))
    verdict, reason, overdue = _verdict(past, seen, ages, settings)
    return _set(replace(past, overdue=overdue), verdict, reason, now)


def _turns(past: Past, seen: Evidence, ages: Ages) -> bool:
    """Did this look see its loop turn: the pulse read, or, where there can be no pin, the main thread sleep and wake?

    CPU time alone does not prove it: a loop in Python uses that as well.
    """
    if seen.pinned:
        just_sent = past.unread_looks == 1 and ages.of(past.unread_since or 0.0) < JUST_SENT_S
        return seen.unread_since is None or just_sent
    return not seen.pinnable and past.woke_at is not None and ages.of(past.woke_at) < TICK_FRESH_S


def _set(past: Past, verdict: Verdict, reason: str, now: float) -> Past:
    since = past.since if verdict is past.verdict else now
    return replace(past, verdict=verdict, reason=reason, since=since)


def _not_running(past: Past, member: Member, now: float) -> Past:
    verdict = {
        State.STARTING: Verdict.STARTING,
        State.BACKOFF: Verdict.STARTING,
        State.STOPPING: Verdict.STOPPING,
    }.get(member.state, Verdict.UNKNOWN)
    return _set(replace(past, overdue=False, lag_s=None), verdict, f"{member.state.value} in supervisord", now)


def _remember(past: Past, seen: Evidence, ages: Ages, settings: Settings) -> Past:
    now = ages.now
    apart_s = settings.silent_after_s / LOOKS_APART
    past = replace(past, traced_by=seen.traced_by, pinned=seen.pinned, lag_s=seen.lag_s)
    if seen.usage is not past.usage or past.over:
        past = _remember_usage(past, seen, now, settings)
    past = _remember_ticks(past, seen.ticks, now, apart_s)
    if seen.unread_since is None:
        if past.unread_since is not None:
            past = replace(past, unread_since=None, unread_looks=0, unread_from=None)
    elif seen.unread_since != past.unread_since:
        start = (now, seen.ticks) if seen.ticks is not None else None
        past = replace(past, unread_since=seen.unread_since, unread_looks=1, unread_look_at=now, unread_from=start)
    elif now - past.unread_look_at >= apart_s:
        past = replace(past, unread_looks=past.unread_looks + 1, unread_look_at=now)
    if seen.http is not None:
        past = _remember_answer(past, seen.http, ages)
    serving = seen.serving
    if seen.hidden and serving is None and past.served_since is None and past.rhythm_looks >= RHYTHM_LOOKS:
        serving = True  # its descriptors are closed to us, but it wakes as uvicorn's loop does
    if seen.pinned and seen.unread_since is None:
        serving = True if serving is None else serving  # it has accepted and read: it was serving
    if serving is not None and serving is not past.serving:
        past = replace(past, serving=serving)
    if serving and past.served_since is None:
        past = replace(past, served_since=now, moved_at=now, switched_at=now)
    return past


def _remember_usage(past: Past, seen: Evidence, now: float, settings: Settings) -> Past:
    usage = seen.usage
    if usage is None or now - usage.at > FRESH_S:
        return replace(past, usage=None, over=())
    if usage is past.usage:
        return past
    return replace(past, usage=usage, over=counted(past.over, over(usage, seen.worker, settings), now))


def _remember_ticks(past: Past, ticks: Ticks | None, now: float, apart_s: float) -> Past:
    before = past.ticks
    if ticks is None and before is None:
        return past
    if ticks is None or before is None:  # unknown: what we could not read is not stillness
        return replace(
            past,
            ticks=ticks,
            ticks_at=now,
            moved_at=now,
            switched_at=now,
            still_looks=0,
            awake_looks=0,
            woke_at=None,
            rhythm_looks=0,
        )
    switched = ticks.switches != before.switches
    moved = switched or ticks.cpu_s != before.cpu_s
    elapsed_s = now - past.ticks_at
    if elapsed_s >= RHYTHM_APART_S:
        in_rhythm = (ticks.switches - before.switches) / elapsed_s >= RHYTHM_PER_S
        past = replace(past, rhythm_looks=past.rhythm_looks + 1 if in_rhythm else 0)
    past = replace(past, ticks=ticks, ticks_at=now)
    if switched:
        past = replace(past, switched_at=now, woke_at=now, awake_looks=0, awake_look_at=now)
    elif now - max(past.awake_look_at, past.switched_at) >= apart_s:
        past = replace(past, awake_looks=past.awake_looks + 1, awake_look_at=now)
    if moved:
        past = replace(past, moved_at=now, still_looks=0, still_look_at=now)
    elif now - max(past.still_look_at, past.moved_at) >= apart_s:
        past = replace(past, still_looks=past.still_looks + 1, still_look_at=now)
    return past


def _remember_answer(past: Past, http: HttpOutcome, ages: Ages) -> Past:
    if http.answer is Answer.RIGHT:
        return replace(past, http=http, wrong=0, wrong_asked_at=None, right_ever=True, answers_right=True)
    if http.answer is Answer.WRONG:
        before = past.wrong_asked_at
        if before is not None and ages.of(before) - http.seconds < ASKED_APART_S:
            return replace(past, http=http, answers_right=False)
        return replace(
            past, http=http, wrong=past.wrong + 1, wrong_asked_at=ages.now - http.seconds, answers_right=False
        )
    if http.answer is Answer.BUSY:  # busy is not sick: it neither counts as wrong nor proves anything
        return replace(past, http=http)
    return past  # unasked: our probe never reached it


def _verdict(past: Past, seen: Evidence, ages: Ages, settings: Settings) -> tuple[Verdict, str, bool]:
    """(verdict, reason, overdue) of a RUNNING worker that was looked at."""
    if past.serving is False:
        if past.served_since is not None:
            return Verdict.STOPPING, "it no longer accepts connections, and has not ended yet", False
        waited_s = ages.of(past.first_seen)
        if seen.serving is None:
            return Verdict.UNKNOWN, "whether it serves by now cannot be read", False
        if waited_s >= settings.start_timeout_s:
            limit_s = settings.start_timeout_s
            return Verdict.STARTING, f"not serving after {waited_s:.0f} s (start_timeout {limit_s:g} s)", True
        return Verdict.STARTING, "not serving yet", False
    if past.served_since is None:
        return Verdict.UNKNOWN, "whether it serves cannot be read", False
    silent = _silent(past, seen, ages, settings)
    if silent:
        return Verdict.SILENT, silent, False
    if past.unread_since is not None and not past.turns:
        return (*_hold(past), False)
    if past.wrong >= settings.failing_after and (
        past.right_ever or ages.of(past.served_since) >= settings.start_timeout_s
    ):
        what = past.http.reason if past.http else "wrong answers"
        return Verdict.FAILING, f"{past.wrong} wrong answers one after another, the last: {what}", False
    if past.turns and settings.path is not None and seen.pinned and not past.right_ever:
        answer = f": {past.http.reason or past.http.answer.value}" if past.http else ""
        return Verdict.UNKNOWN, f"no right answer on {settings.path} yet{answer}", False
    if past.turns:
        return Verdict.HEALTHY, "" if seen.pinned else "by its ticks alone", False
    if past.still_looks:
        return (*_hold(past), False)
    if past.ticks is None:
        return Verdict.UNKNOWN, "it has not accepted a connection of ours yet, and its ticks cannot be read", False
    if past.awake_looks:
        return (
            Verdict.UNKNOWN,
            "it burns CPU without a pause; without a pin nothing tells whether its loop turns",
            False,
        )
    return Verdict.UNKNOWN, "it wakes, but has not accepted a connection of ours yet", False


def _hold(past: Past) -> tuple[Verdict, str]:
    """Late, not yet too late: what held before still holds, unless it was said of another time of its life."""
    if past.verdict is Verdict.HEALTHY or (past.verdict is Verdict.FAILING and past.wrong):  # no right answer since
        return past.verdict, past.reason
    return Verdict.UNKNOWN, "its loop has not turned since the last look"


def _silent(past: Past, seen: Evidence, ages: Ages, settings: Settings) -> str:
    """Why its loop does not turn, in words that end in how long; empty while that is not proven."""
    if past.unread_since is not None:
        age_s = ages.of(past.unread_since)
        limit_s = settings.silent_after_s
        busy = _busy(past, ages)
        if busy:
            limit_s *= settings.busy_factor
        if age_s >= limit_s and past.unread_looks >= LOOKS_BEFORE_SILENT:
            burning = ", burning CPU" if busy else ""
            return f"its event loop has not turned for {age_s:.1f} s{burning} (limit {limit_s:g} s)"
        return ""
    if seen.pinned or past.ticks is None:
        return ""
    still_s = ages.of(past.moved_at)
    if still_s >= settings.silent_after_s and past.still_looks >= LOOKS_BEFORE_SILENT:
        return f"its main thread has not woken for {still_s:.1f} s (limit {settings.silent_after_s:g} s)"
    limit_s = settings.silent_after_s * settings.busy_factor
    if seen.queued_since is not None and seen.process_state != "S":
        spin_s = min(ages.of(past.switched_at), ages.of(seen.queued_since))
        if spin_s >= limit_s and past.awake_looks >= LOOKS_BEFORE_SILENT:
            return f"it burns CPU and has accepted nothing for {spin_s:.1f} s (limit {limit_s:g} s)"
    return ""


def _busy(past: Past, ages: Ages) -> bool:
    """Has it burned CPU since the pulse went unread? Not to be told without ticks: then yes, which is the later
    road."""
    if past.unread_from is None or past.ticks is None:
        return True
    at, ticks = past.unread_from
    elapsed_s = ages.of(at) - ages.of(past.ticks_at)  # in a gap of ours it may have been stopped like ourselves
    used_s = past.ticks.cpu_s - ticks.cpu_s + past.ticks.waited_s - ticks.waited_s  # others may have the CPUs
    return elapsed_s > 0 and used_s / elapsed_s > BUSY_SHARE


def newly(before: Sequence[Past], after: Sequence[Past]) -> list[tuple[Past, Past | None]]:
    """The workers whose verdict changed, with what was held before; for the log."""
    old = {past.name: past for past in before}
    return [
        (past, old.get(past.name))
        for past in after
        if past.name not in old or old[past.name].verdict is not past.verdict or old[past.name].worker != past.worker
    ]
