"""A channel with a played clock and a played other side: when it tries, what it gives up, and what it tells."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import pytest
from harness.waiting import wait_for

from supervisor_uvicorn.delivery import GIVE_UP_AFTER_S, LONGEST_PAUSE_S, MOST_WAITING, Attempt, Channel, Result
from supervisor_uvicorn.report import events

SENT = Attempt(Result.SENT)
AGAIN = Attempt(Result.AGAIN, "status 503")
FAILED = Attempt(Result.FAILED, "status 404")


class Played:
    def __init__(self) -> None:
        self.now = 1000.0
        self.answer: Attempt | Callable[[bytes], Attempt] = SENT
        self.tried: list[tuple[float, bytes]] = []
        self.told: list[str] = []
        self.counts: Counter[str] = Counter()
        self.channel = Channel("url", "--notify-url http://x", self._deliver, self._tell, self._count, lambda: self.now)

    def _deliver(self, data: bytes) -> Attempt:
        self.tried.append((self.now, data))
        return self.answer if isinstance(self.answer, Attempt) else self.answer(data)

    def _tell(self, event: events.Event) -> None:
        assert event.kind == "error"
        assert event.fields["reason"] == "notify"
        self.told.append(event.message)

    def _count(self, channel: str, outcome: str) -> None:
        assert channel == "url"
        self.counts[outcome] += 1

    def put(self, *words: str) -> None:
        for word in words:
            self.channel.put(word.encode)

    def run(self, until: float | None = None) -> None:
        """Play what the thread does, until there is nothing to do, or the time is over."""
        while True:
            wait_s = self.channel.step()
            if wait_s is None:
                return
            if until is not None and self.now + wait_s > until:
                self.now = until
                return
            self.now += wait_s


@pytest.fixture
def played() -> Played:
    return Played()


def test_what_is_put_is_sent_in_its_order_and_nothing_is_told(played: Played) -> None:
    played.put("a", "b", "c")
    played.run()
    assert [data for _, data in played.tried] == [b"a", b"b", b"c"]
    assert (played.counts, played.told) == ({"sent": 3}, [])


def test_the_pauses_double_up_to_a_minute_for_ten_minutes(played: Played) -> None:
    played.answer = AGAIN
    played.put("a")
    played.run()
    times = [at - 1000 for at, _ in played.tried]
    assert times == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243, 303, 363, 423, 483, 543]
    assert played.now == 1000 + GIVE_UP_AFTER_S
    assert played.counts == {"failed": 1}


def test_a_series_is_told_when_it_begins_and_when_it_is_over(played: Played) -> None:
    played.answer = AGAIN
    played.put("a", "b")
    played.run(until=1000 + 31)
    played.answer = SENT
    played.run()
    assert played.told == [
        "--notify-url http://x failed: status 503; tried again for 10 minutes. Told again when it works",
        "--notify-url http://x works again, after 6 failures",
    ]
    assert played.counts == {"sent": 2}


def test_the_next_series_is_told_anew_and_begins_with_a_short_pause(played: Played) -> None:
    played.answer = AGAIN
    played.put("a")
    played.run(until=1063)
    played.answer = SENT
    played.run()
    played.answer = AGAIN
    played.put("b")
    began = played.now
    played.run(until=began + 2)
    assert [at - began for at, data in played.tried if data == b"b"] == [0, 1]
    assert len(played.told) == 3


def test_what_would_never_go_better_is_lost_at_once(played: Played) -> None:
    played.answer = FAILED
    played.put("a", "b")
    played.run()
    assert played.now == 1000
    played.answer = SENT
    played.put("c")
    played.run()
    assert played.counts == {"failed": 2, "sent": 1}
    assert played.told == [
        "--notify-url http://x failed: status 404; this notice is lost. Told again when it works",
        "--notify-url http://x works again, after 2 failures, 2 notices lost",
    ]


def test_the_other_side_may_ask_for_a_longer_pause_but_not_for_any(played: Played) -> None:
    played.answer = Attempt(Result.AGAIN, "status 429", 30)
    played.put("a")
    played.run(until=1029.9)
    assert len(played.tried) == 1
    played.answer = Attempt(Result.AGAIN, "status 429", 1e9)
    played.run(until=1030 + LONGEST_PAUSE_S - 0.1)
    assert [at for at, _ in played.tried] == [1000, 1030]
    played.run(until=played.now + 0.2)
    assert [at for at, _ in played.tried] == [1000, 1030, 1090]


def test_what_is_down_is_not_asked_more_often_because_much_waits(played: Played) -> None:
    played.answer = AGAIN
    played.put(*"abcdefgh")
    played.run(until=1000 + 2 * GIVE_UP_AFTER_S)
    assert len(played.tried) <= 20
    assert played.counts == {"failed": 8}
    assert len(played.told) == 1


def test_of_too_many_the_oldest_are_dropped_also_one_that_is_tried_again(played: Played) -> None:
    played.answer = AGAIN
    played.put("first")
    played.run(until=1000.5)
    played.put(*(f"n{number}" for number in range(MOST_WAITING + 4)))
    played.answer = SENT
    played.run()
    assert [data.decode() for _, data in played.tried][1:] == [f"n{number}" for number in range(4, MOST_WAITING + 4)]
    assert played.counts == {"dropped": 5, "sent": MOST_WAITING}
    assert played.told[1] == "--notify-url http://x: more than 100 notices wait, so the oldest are dropped"
    assert played.told[2] == "--notify-url http://x works again, after one failure, 5 notices lost"
    assert len(played.told) == 3


def test_the_one_that_is_under_way_is_not_dropped(played: Played) -> None:
    def slow(data: bytes) -> Attempt:
        if data == b"first":
            played.put(*(f"n{number}" for number in range(MOST_WAITING + 1)))
        return SENT

    played.answer = slow
    played.put("first")
    played.run()
    assert [data.decode() for _, data in played.tried] == ["first", *(f"n{n}" for n in range(2, MOST_WAITING + 1))]
    assert played.counts == {"sent": MOST_WAITING, "dropped": 2}


def test_what_waited_too_long_behind_others_is_not_sent_any_more(played: Played) -> None:
    def slow(data: bytes) -> Attempt:
        played.now += GIVE_UP_AFTER_S
        return SENT

    played.answer = slow
    played.put("a", "b")
    played.run()
    assert [data for _, data in played.tried] == [b"a"]
    assert played.counts == {"sent": 1, "failed": 1}


def test_put_wakes_the_thread_and_waits_for_nobody() -> None:
    sent, busy, go_on = list[bytes](), threading.Event(), threading.Event()

    def deliver(data: bytes) -> Attempt:
        busy.set()
        go_on.wait(30)
        sent.append(data)
        return SENT

    channel = Channel("url", "x", deliver, lambda event: None, lambda name, outcome: None)
    threading.Thread(target=channel.run, daemon=True).start()
    channel.put(lambda: b"0")
    assert busy.wait(10)
    for number in range(1, 500):  # from another thread, while it hangs
        channel.put(str(number).encode)
    assert sent == []
    go_on.set()
    wait_for(lambda: len(sent) == MOST_WAITING, 10, "all that waited")
    assert sent == [b"0", *(str(number).encode() for number in range(500 - MOST_WAITING + 1, 500))]
