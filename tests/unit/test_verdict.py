"""``judge`` in single steps: what is held of a worker before, one look, what is held after it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor_uvicorn.model import Answer, Evidence, HttpOutcome, Member, State, Ticks, Verdict, WorkerId
from supervisor_uvicorn.settings import Settings
from supervisor_uvicorn.verdict import Ages, Past, judge, newly

NOW = 1000.0
WORKER = WorkerId("web:web-0", 7, 70)
RUNNING = Member("web:web-0", State.RUNNING, 7, 70)
WELL = Past(
    "web:web-0",
    WORKER,
    first_seen=100.0,
    state=State.RUNNING,
    looked=True,
    verdict=Verdict.HEALTHY,
    since=200.0,
    serving=True,
    served_since=110.0,
    turns=True,
    pinned=True,
    right_ever=True,
    answers_right=True,
)
READ = Evidence(WORKER, pinned=True)
RIGHT, WRONG = HttpOutcome(Answer.RIGHT, status=200), HttpOutcome(Answer.WRONG, "status 500", 500)
SPIN, STILL, CROWDED = Ticks(50, 30.0), Ticks(50, 1.0), Ticks(50, 5.0, waited_s=15.0)
LATE = replace(
    WELL, turns=False, unread_since=980.0, unread_looks=5, unread_look_at=990.0, ticks=STILL, ticks_at=990.0,
    unread_from=(980.0, STILL), moved_at=980.0, switched_at=980.0,
)  # fmt: skip


def unread(since: float, ticks: Ticks | None = STILL) -> Evidence:
    return Evidence(WORKER, pinned=True, unread_since=since, ticks=ticks, process_state="S")


@pytest.mark.parametrize(
    ("past", "seen", "verdict"),
    [
        (WELL, READ, Verdict.HEALTHY),
        (WELL, unread(990.0), Verdict.HEALTHY),  # late, not yet too late
        (replace(LATE, unread_since=969.0), unread(969.0), Verdict.SILENT),
        (replace(LATE, unread_since=969.0, unread_looks=1), unread(969.0), Verdict.HEALTHY),  # two looks are too few
        (replace(LATE, unread_since=969.0), unread(970.1), Verdict.HEALTHY),  # another pulse: that one was read
        (replace(LATE, unread_since=969.0), unread(969.0, SPIN), Verdict.HEALTHY),  # burns CPU: twice as long
        (replace(LATE, unread_since=969.0), unread(969.0, CROWDED), Verdict.HEALTHY),  # it would, others have the CPUs
        (replace(LATE, unread_since=969.0), unread(969.0, None), Verdict.HEALTHY),  # not to be told: the later road
        (replace(LATE, unread_since=930.0), unread(930.0, None), Verdict.SILENT),
        (replace(LATE, unread_since=969.0), replace(READ, http=None), Verdict.HEALTHY),
        (WELL, Evidence(WORKER, serving=False, ticks=STILL), Verdict.STOPPING),
        (WELL, Evidence(WORKER), Verdict.UNKNOWN),
        (WELL, Evidence(WORKER, process_state="Z"), Verdict.UNKNOWN),
        (WELL, Evidence(WORKER, serving=True, ticks=STILL), Verdict.UNKNOWN),  # the pin is lost: nothing proven
        (
            replace(WELL, served_since=None, serving=None),
            Evidence(WORKER, serving=False, ticks=STILL),
            Verdict.STARTING,
        ),
        (replace(WELL, wrong=2), replace(READ, http=WRONG), Verdict.FAILING),
        (replace(WELL, wrong=1), replace(READ, http=WRONG), Verdict.HEALTHY),
        (replace(WELL, wrong=2), replace(READ, http=HttpOutcome(Answer.BUSY)), Verdict.HEALTHY),
        (replace(WELL, wrong=2), replace(READ, http=HttpOutcome(Answer.UNASKED)), Verdict.HEALTHY),
        (replace(WELL, wrong=9, right_ever=False, served_since=950.0), READ, Verdict.UNKNOWN),  # new: not judged
        (replace(WELL, wrong=9, right_ever=False, served_since=900.0), READ, Verdict.FAILING),
        (replace(WELL, right_ever=False), READ, Verdict.UNKNOWN),  # no right answer yet
        (replace(LATE, verdict=Verdict.FAILING, wrong=3), unread(980.0), Verdict.FAILING),
        (replace(LATE, verdict=Verdict.FAILING, wrong=3), replace(unread(980.0), http=RIGHT), Verdict.UNKNOWN),
    ],
)
def test_one_look(past: Past, seen: Evidence, verdict: Verdict) -> None:
    assert judge(past, RUNNING, seen, Ages(NOW), Settings(path="/")).verdict is verdict


@pytest.mark.parametrize(
    ("state", "verdict"),
    [
        (State.STARTING, Verdict.STARTING),
        (State.BACKOFF, Verdict.STARTING),
        (State.STOPPING, Verdict.STOPPING),
        (State.STOPPED, Verdict.UNKNOWN),
        (State.EXITED, Verdict.UNKNOWN),
        (State.FATAL, Verdict.UNKNOWN),
        (State.UNKNOWN, Verdict.UNKNOWN),
    ],
)
def test_what_is_not_running_is_not_judged(state: State, verdict: Verdict) -> None:
    silent = replace(LATE, unread_since=100.0)
    after = judge(silent, replace(RUNNING, state=state), unread(100.0), Ages(NOW), Settings())
    assert after.verdict is verdict
    assert not after.serves


def test_a_new_pid_has_no_past() -> None:
    member = replace(RUNNING, pid=8, born=80)
    after = judge(replace(WELL, wrong=9), member, Evidence(WorkerId("web:web-0", 8, 80)), Ages(NOW), Settings())
    assert (after.first_seen, after.wrong, after.served_since) == (NOW, 0, None)


@pytest.mark.parametrize(
    ("gaps", "age_s"),
    [((), 100), (((950.0, 30.0),), 70), (((850.0, 30.0),), 100), (((950.0, 80.0), (960.0, 80.0)), 0)],
)
def test_an_age_leaves_out_the_gaps_after_its_moment(gaps: tuple[tuple[float, float], ...], age_s: float) -> None:
    assert Ages(NOW, gaps).of(900.0) == age_s


def test_overdue_is_said_only_of_what_is_seen_not_to_serve() -> None:
    starting = Past("web:web-0", WORKER, first_seen=100.0, state=State.RUNNING, serving=False)
    hung = Evidence(WORKER, serving=False, ticks=STILL)
    assert judge(starting, RUNNING, hung, Ages(NOW), Settings()).overdue
    assert not judge(starting, RUNNING, replace(hung, serving=None), Ages(NOW), Settings()).overdue


def test_without_any_right_the_rhythm_of_its_main_loop_shows_that_it_serves() -> None:
    past = None
    for second in range(5):
        seen = Evidence(WORKER, hidden=True, pinnable=False, ticks=Ticks(10 * second, 0.0), process_state="S")
        past = judge(past, RUNNING, seen, Ages(NOW + second), Settings())
    assert past is not None
    assert (past.verdict, past.serves) == (Verdict.HEALTHY, True)
    for second in range(5, 40):
        past = judge(past, RUNNING, seen, Ages(NOW + second), Settings())
    assert past.verdict is Verdict.SILENT


def test_where_we_may_look_a_rhythm_is_no_proof_of_serving() -> None:
    """An import that reads many files has one too; a loop that is no epoll shows no file that would tell."""
    past = None
    for second in range(200):
        seen = Evidence(WORKER, serving=None, pinnable=False, ticks=Ticks(10 * min(second, 9), 0.0), process_state="S")
        past = judge(past, RUNNING, seen, Ages(NOW + second), Settings())
    assert past is not None
    assert (past.verdict, past.overdue) == (Verdict.UNKNOWN, False)


def test_the_first_look_at_its_ticks_proves_nothing() -> None:
    seen = Evidence(WORKER, serving=True, pinnable=False, ticks=Ticks(500, 9.0), process_state="S")
    assert judge(None, RUNNING, seen, Ages(NOW), Settings()).verdict is Verdict.UNKNOWN


def test_a_change_of_verdict_or_pid_is_news_and_nothing_else_is() -> None:
    sick = replace(WELL, verdict=Verdict.SILENT)
    assert newly([WELL], [replace(WELL, lag_s=3.0)]) == []
    assert newly([WELL], [sick]) == [(sick, WELL)]
    assert newly([], [WELL]) == [(WELL, None)]
