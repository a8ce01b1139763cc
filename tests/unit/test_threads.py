"""The crew of short-lived threads: what it does where the machine starts none."""

from __future__ import annotations

import threading

import pytest

from supervisor_uvicorn.threads import Crew

MOST = 3


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)


def test_threads_that_could_not_be_started_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    crew = Crew(MOST)
    ran = threading.Event()
    with monkeypatch.context() as patch:
        forbid(patch)
        for _ in range(MOST + 2):
            with pytest.raises(RuntimeError, match="new thread"):
                crew.submit(lambda: pytest.fail("a job that was refused is not done later"))
    crew.submit(ran.set)
    assert ran.wait(10)


def test_with_a_thread_at_work_a_job_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    crew = Crew(MOST)
    busy, go_on, ran = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        busy.set()
        go_on.wait(30)

    crew.submit(work)
    assert busy.wait(10)
    with monkeypatch.context() as patch:
        forbid(patch)
        crew.submit(ran.set)
    assert not ran.is_set()
    go_on.set()
    assert ran.wait(10)


def test_never_more_than_allowed() -> None:
    crew = Crew(MOST)
    at_work, most, done = 0, 0, threading.Semaphore(0)
    lock, all_in = threading.Lock(), threading.Barrier(MOST)

    def work() -> None:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        all_in.wait(30)  # broken, and so an error in the log, unless so many are at work at once
        with lock:
            at_work -= 1
        done.release()

    for _ in range(2 * MOST):
        crew.submit(work)
    assert all(done.acquire(timeout=30) for _ in range(2 * MOST))
    assert most == MOST
