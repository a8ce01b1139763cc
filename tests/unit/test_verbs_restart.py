"""``restart`` follows a roll to its end, whatever comes in between: a refusal, silence, a listener that is killed."""

from __future__ import annotations

from typing import Any

import pytest
from verbs_desk import Desk, Play, Screen, no, note, page, program, roll, turn, yes

from supervisor_uvicorn.model import State
from supervisor_uvicorn.supervisord.board import Note
from supervisor_uvicorn.supervisord.request import Request
from supervisor_uvicorn.supervisord.rpc import InDoubt, Unauthorized, Unreachable
from supervisor_uvicorn.verbs.asking import Listener, NoNews
from supervisor_uvicorn.verbs.progress import bar
from supervisor_uvicorn.verbs.restart import restart

IDENT = "abcd"
BEFORE = page(program())


def two_turns(since_s: float) -> dict[str, Any]:
    """A roll of two workers: the first 1 s after the request, the second after 2 s, done after 3 s."""
    stages = [(1.0, "under way", "waiting"), (2.0, "done", "under way"), (3.0, "done", "done")]
    first, second = next(((a, b) for until, a, b in stages if since_s < until), ("done", "done"))
    turns = [
        turn("web:web-0", first, 11, 21 if first == "done" else None),
        turn("web:web-1", second, 12, 22 if second == "done" else None),
    ]
    over = since_s >= 3.0
    return roll(IDENT, *turns, state="done" if over else "rolling", took_s=2.5 if over else None)


def rolling(since_s: float, request: Request | None) -> dict[str, Any]:
    if request is None or since_s < 0.25:
        return BEFORE
    return page(program(roll=two_turns(since_s)), answers=[yes(IDENT, detail="rolling 2 workers of web")])


def follow(
    play: Play, timeout_s: float | None = None, live: bool = False, columns: int = 80
) -> tuple[int, Screen, Desk]:
    desk = Desk(play)
    screen = Screen(desk, live, columns)
    return restart(["web"], timeout_s, IDENT, desk, screen.console), screen, desk


def test_a_line_for_each_change_and_how_it_ended() -> None:
    code, screen, desk = follow(rolling)
    assert code == 0
    assert screen.lines == [
        "rolling 2 workers of web",
        "web:web-0: pid 11 is being replaced",
        "web:web-0: pid 11 -> 21",
        "web:web-1: pid 12 is being replaced",
        "web:web-1: pid 12 -> 22",
        "web: done, 2 workers in 2.5 s",
    ]
    assert screen.notes == ""
    assert desk.sent == [Request(IDENT, "restart", ("web",), sent_at=1.5)], "by supervisord's clock: at 1.0, 0.5 s ago"


def test_on_a_terminal_one_line_is_rewritten() -> None:
    code, screen, _ = follow(rolling, live=True)
    assert code == 0
    shown = screen.out.getvalue().split("\r")
    assert "web [>         ] 0/2 web:web-0 under way, 4 s" in [one.strip() for one in shown]
    assert "web [=====>    ] 1/2 web:web-1 under way, 4 s" in [one.strip() for one in shown]
    assert screen.out.getvalue().count("\n") == 2, "what was answered, and the end; nothing else makes a line"
    assert shown[-1] == "web: done, 2 workers in 2.5 s\n"
    assert "-> 21" not in screen.out.getvalue()


@pytest.mark.parametrize("columns", [20, 40])
def test_the_rewritten_line_fits_into_the_terminal(columns: int) -> None:
    _, screen, _ = follow(rolling, live=True, columns=columns)
    longest = max(len(one) for one in screen.out.getvalue().split("\r") if "[" in one)
    assert longest == columns - 1


@pytest.mark.parametrize(("state", "expected"), [("done", 0), ("stopped", 1)])
@pytest.mark.parametrize("seen_s", [0.25, 2.0])
def test_a_second_roll_that_began_before_the_end_was_seen(state: str, expected: int, seen_s: float) -> None:
    def play(since_s: float, request: Request | None) -> dict[str, Any]:
        if request is None:
            return BEFORE
        if since_s < seen_s:  # with 2.0 its beginning is seen, with 0.25 nothing of it
            return page(program(roll=roll(IDENT, turn("web:web-0", "under way"))), answers=[yes(IDENT)])
        mine = roll(IDENT, turn("web:web-0", "done", 11, 21), state=state, detail="why", took_s=1.5)
        theirs = roll("other", turn("web:web-0", "under way", 21))
        return page(program(roll=theirs, earlier_roll=mine), answers=[yes(IDENT), yes("other")])

    code, screen, desk = follow(play)
    assert code == expected
    assert screen.lines[-1] == ("web: done, 1 worker in 1.5 s" if state == "done" else "web: stopped: why")
    assert "other" not in screen.out.getvalue()
    assert desk.now <= 1000 + seen_s + 0.25, "at once"


def test_stopped_is_1_with_the_reason() -> None:
    why = "web:web-0 does not start: supervisord has given it up (FATAL); 1 worker was not touched"

    def play(since_s: float, request: Request | None) -> dict[str, Any]:
        if request is None:
            return BEFORE
        turns = [turn("web:web-0", "under way"), turn("web:web-1", old=12)]
        stopped = {"state": "stopped", "detail": why, "took_s": 9.0} if since_s > 2 else {}
        return page(program(roll=roll(IDENT, *turns, **stopped)), answers=[yes(IDENT)])

    code, screen, _ = follow(play)
    assert (code, screen.lines[-1]) == (1, f"web: stopped: {why}")


def test_two_programs_are_followed_to_the_end_of_both() -> None:
    def play(since_s: float, request: Request | None) -> dict[str, Any]:
        if request is None:
            return BEFORE
        web = roll(IDENT, turn("web:web-0", "under way"), state="stopped", detail="bad", took_s=1.0)
        over = {"state": "done", "took_s": 20.0} if since_s > 20 else {}
        api = roll(IDENT, turn("api:api-0", "done" if over else "under way", 31, 32 if over else None), **over)
        return page(program(roll=web), program("api", roll=api), answers=[yes(IDENT)])

    code, screen, desk = follow(play)
    assert code == 1, "one of them was stopped"
    assert screen.lines[-1] == "api: done, 1 worker in 20.0 s"
    assert screen.lines.count("web: stopped: bad") == 1
    assert desk.now > 1020


def test_a_refusal_is_2_with_the_listener_s_reason() -> None:
    with pytest.raises(NoNews, match="refused: web is paused"):
        follow(lambda _, request: page(program(), answers=[no(IDENT, "restart", "web is paused")] if request else []))


def test_somebody_else_s_answer_is_none() -> None:
    desk = Desk(lambda _, request: page(program(), answers=[no("other", "restart", "no"), yes("another")]))
    with pytest.raises(NoNews, match=r"no listener answered within 10 s(.|\n)*REMOTE_COMMUNICATION"):
        restart(["web"], None, IDENT, desk, Screen(desk).console)
    assert 1011 <= desk.now < 1012
    assert len(desk.sent) == 1, "asked once, however long the answer takes"


def test_what_is_in_doubt_is_answered_by_the_board() -> None:
    desk = Desk(rolling)
    desk.refuses = InDoubt("no answer")
    assert restart(["web"], None, IDENT, desk, Screen(desk).console) == 0
    desk = Desk(rolling)
    desk.refuses = Unreachable("nobody there")
    with pytest.raises(Unreachable):
        restart(["web"], None, IDENT, desk, Screen(desk).console)


def test_nothing_is_asked_where_nobody_reports() -> None:
    for board, said in {
        None: r"\[rpcinterface:uvicorn\]",
        Note(): "no listener has reported",
        note(BEFORE, 15.5): "has not reported for 16 s.*\nNothing was asked",
        Note("{", 0.1): "no JSON",
    }.items():
        desk = Desk(lambda _, __, board=board: board)
        with pytest.raises(NoNews, match=said):
            restart(["web"], None, IDENT, desk, Screen(desk).console)
        assert desk.sent == []


def test_still_rolling_after_the_timeout_is_1_and_says_how_to_follow() -> None:
    def play(since_s: float, request: Request | None) -> dict[str, Any]:
        return rolling(min(since_s, 1.5), request)

    code, screen, desk = follow(play, timeout_s=30)
    assert code == 1
    assert screen.lines[-1] == ("web: still rolling after 30 s, 1 of 2 done. It goes on: supervisor-uvicorn status")
    assert 1030 <= desk.now < 1031


def test_a_listener_that_is_killed_and_comes_back_is_waited_for_and_said_once() -> None:
    def play(since_s: float, request: Request | None) -> dict[str, Any] | Note:
        if request is None or not 1 < since_s < 41:
            return rolling(since_s if since_s < 2 else since_s - 40, request)
        return note(rolling(1.0, request), since_s - 1.0)

    code, screen, desk = follow(play)
    assert code == 0
    assert screen.notes.count("has not reported for") == 1
    assert screen.notes.endswith("the listener reports again\n")
    assert screen.lines[-1] == "web: done, 2 workers in 2.5 s"
    assert desk.now >= 1043


def test_each_absence_has_its_own_minute() -> None:
    def play(since_s: float, request: Request | None) -> Any:
        away = 1 < since_s < 46 or 50 < since_s < 95
        return Unreachable("away") if request and away else rolling(min(since_s, 1.5 if since_s < 95 else 5), request)

    code, screen, _ = follow(play)
    assert code == 0
    assert screen.notes.count("away\nWaiting for up to 60 s\n") == 2
    assert screen.notes.count("the listener reports again") == 2


def test_an_answer_is_waited_for_while_the_listener_is_started_anew() -> None:
    def play(since_s: float, request: Request | None) -> dict[str, Any] | Note:
        if request is None or since_s > 30:
            return rolling(since_s, request)
        return note(BEFORE, since_s + 10)

    code, _, desk = follow(play)
    assert code == 0
    assert desk.now > 1030


def test_a_stale_page_without_the_roll_is_no_loss() -> None:
    def play(since_s: float, request: Request | None) -> dict[str, Any] | Note:
        if request is None or not 1 < since_s < 31:
            return rolling(since_s, request)
        return note(page(), 16 + since_s)

    code, screen, _ = follow(play)
    assert code == 0
    assert screen.lines[-1] == "web: done, 2 workers in 2.5 s"


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (Unreachable("unix:///s: nobody listens there; supervisord is not running"), "nobody listens there"),
        (InDoubt("did not answer"), "did not answer"),
        (None, "no longer has"),
        (Note(), "has been restarted"),
    ],
)
@pytest.mark.parametrize("away_s", [50, 70])
def test_a_supervisord_that_does_not_answer_is_waited_for_a_minute(
    gone: Exception | Note | None, said: str, away_s: int
) -> None:
    def play(since_s: float, request: Request | None) -> Any:
        if request is None or since_s < 1:
            return rolling(since_s, request)
        return gone if since_s < away_s else rolling(5, request)

    if away_s < 60:
        code, screen, _ = follow(play)
        assert code == 0
        assert screen.notes.count(said) == 1
    else:
        with pytest.raises(NoNews, match=f"{said}(.|\n)*Gave up after 60 s"):
            follow(play)


def test_silence_says_what_becomes_of_the_request_and_where_to_look() -> None:
    listeners = [Listener("uvicorn-health:uvicorn-health", State.STOPPED, "/var/log/it.log")]
    desk = Desk(lambda _, __: BEFORE, listeners=listeners)
    with pytest.raises(NoNews) as silence:
        restart(["web"], None, IDENT, desk, Screen(desk).console)
    assert str(silence.value) == (
        "no listener answered within 10 s, though one reports. A request that is 10 s old is not carried out any more; "
        "what a listener had already begun goes on.\n"
        "Is the listener still RUNNING? uvicorn-health:uvicorn-health is STOPPED, see `supervisorctl status` and its "
        "stderr log /var/log/it.log. In its section there must be events=TICK_5,PROCESS_STATE,REMOTE_COMMUNICATION"
    )


def test_a_password_that_is_wrong_by_now_is_not_waited_for() -> None:
    desk = Desk(lambda since_s, request: rolling(since_s, request) if since_s < 1 or not request else Unauthorized("u"))
    with pytest.raises(NoNews, match="HTTP 401"):
        restart(["web"], None, IDENT, desk, Screen(desk).console)
    assert desk.now < 1002


def test_a_listener_that_has_lost_its_memory_does_not_keep_us() -> None:
    def play(since_s: float, request: Request | None) -> dict[str, Any]:
        # a listener that has just started shows no program for a moment: that is no loss
        if request is None or since_s < 2:
            return rolling(min(since_s, 1.5), request)
        return page() if since_s < 6 else rolling(1.5, request) if since_s < 8 else page(program())

    code, screen, desk = follow(play)
    assert code == 1
    assert screen.lines[-1] == (
        "web: the listener no longer shows this roll, so how it ended is not known; see supervisor-uvicorn history web"
    )
    assert 1019 <= desk.now < 1020


def test_accepted_and_never_begun() -> None:
    with pytest.raises(NoNews, match="shows no roll"):
        follow(lambda _, request: page(program(), answers=[yes(IDENT)] if request else []))


def test_a_roll_taken_over_by_a_listener_without_the_answer_is_an_answer() -> None:
    def play(since_s: float, request: Request | None) -> dict[str, Any]:
        return {**rolling(since_s, request), "answers": []}

    assert follow(play)[0] == 0


def test_left_out_started_and_waiting_are_said() -> None:
    def play(since_s: float, request: Request | None) -> dict[str, Any]:
        if request is None:
            return BEFORE
        if since_s < 1:
            its = roll(IDENT, turn("web:web-0"), turn("web:web-1", old=None), detail="waits: web:web-2 does not serve")
        else:
            turns = [turn("web:web-0", "left", detail="stopped by the operator"), turn("web:web-1", "done", None, 22)]
            its = roll(IDENT, *turns, state="done", took_s=4.0)
        return page(program(roll=its), answers=[yes(IDENT)])

    code, screen, _ = follow(play)
    assert code == 0
    assert screen.lines[1:] == [
        "web: waits: web:web-2 does not serve",
        "web:web-0: left out: stopped by the operator",
        "web:web-1: started as pid 22",
        "web: done, 1 worker in 4.0 s, 1 left out",
    ]


def test_words_of_a_worker_begin_no_line_of_ours() -> None:
    bad = "boom\n\x1b[2Jweb: done"
    its = roll(IDENT, turn("web:web-0"), state="stopped", detail=bad)
    _, screen, _ = follow(lambda _, request: page(program(roll=its), answers=[yes(IDENT)]) if request else BEFORE)
    assert screen.lines[-1] == "web: stopped: boom\\n\\x1b[2Jweb: done"
    assert "\x1b" not in bar("web", roll(IDENT, turn("web:web-0"), detail=bad))
