"""Not the workers' fault: all answer 500, or the database is down."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

import pytest
from harness import client
from harness.judging import wait_healthy
from harness.supervisord import Program, Supervisord, free_port, watched
from harness.waiting import stays_true, wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

Figures = Callable[..., None]


def test_all_answer_500(figures: Figures) -> None:
    with watched(Program(), "--path /health --failing-after 2 --silent-after 5 --backoff 0 --budget 1000/600") as site:
        before = wait_healthy(site)
        site.fault_file("health", "500")
        began = time.monotonic()
        held = wait_for(
            lambda: [event for event in site.events("held") if event["reason"] == "panic"], 60, "held: panic"
        )
        held_s = time.monotonic() - began
        stays_true(lambda: site.events("restart") == [], 55 - (time.monotonic() - began - held_s), "no restart")
        wait_for(lambda: site.events("restart"), 40, "the canary")
        canary_s = time.monotonic() - began - held_s
        # The second canary comes 120 s after the first at the earliest.
        stays_true(lambda: len(site.events("restart")) == 1, 100, "exactly one canary")
        changed = [name for name, pid in site.pids().items() if pid != before[name]]
        figures(held_after_s=round(held_s, 1), canary_after_held_s=round(canary_s, 1), line=held[0]["message"])
        assert changed == [site.events("restart")[0]["worker"]]
        assert canary_s >= 58


class Database:
    """A TCP "database" that answers each line, or while it is down is ``mute`` (accepts, never answers) or refuses."""

    def __init__(self, *, refuses: bool) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._refuses = refuses
        self._held: list[socket.socket] = []
        self._up = True
        self._listener = self._listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._end = False

    def _listen(self) -> socket.socket:
        host, _, port = self.address.rpartition(":")
        listener = socket.create_server((host, int(port)), reuse_port=False)
        listener.settimeout(0.1)
        return listener

    def _serve(self) -> None:
        while not self._end:
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                time.sleep(0.05)  # refused just now: the listener is closed
                continue
            if self._up:
                with connection:
                    connection.sendall(b"answer\n")
            else:
                self._held.append(connection)

    def down(self) -> None:
        self._up = False
        if self._refuses:
            self._listener.close()

    def up(self) -> None:
        self._up = True
        if self._refuses:
            self._listener = self._listen()
        for connection in self._held:
            connection.close()

    def __enter__(self) -> Database:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end = True
        self._thread.join(5)
        self._listener.close()
        for connection in self._held:
            connection.close()


@pytest.mark.parametrize("refuses", [False, True], ids=["mute", "refuses"])
@pytest.mark.parametrize("patience_s", [None, 2, 0.3], ids=["startup-waits", "startup-fails", "fatal"])
def test_a_database_that_is_down(refuses: bool, patience_s: float | None, figures: Figures) -> None:
    """The start-up waits for the database for ever, or fails when RUNNING, or before that, so that it gets FATAL."""
    with Database(refuses=refuses) as database:
        environment = {"FAULTY_DB": database.address}
        if patience_s:
            environment["FAULTY_DB_PATIENCE_S"] = str(patience_s)
        with watched(Program(environment=environment, extra="autorestart=true"), "--silent-after 2") as site:
            before = site.pids()
            connections = [site.connect_to(name) for name in before]
            database.down()
            for connection in connections:
                connection.send_only("/db")
            wait_for(lambda: site.events("restart"), 60, "the first worker to be replaced")
            stays_true(lambda: len(lost(site, before)) <= 1, 60, "no more than the first worker lost")
            assert len(lost(site, before)) == 1
            database.up()
            began = time.monotonic()
            wait_for(lambda: all_serve(site), 90, "all workers to serve")
            figures(refuses=refuses, patience_s=patience_s, lost=1, all_serve_s=round(time.monotonic() - began, 1))
            for connection in connections:
                connection.close()


def lost(site: Supervisord, before: dict[str, int]) -> list[str]:
    return [name for name, pid in site.pids().items() if pid != before[name]]


def all_serve(site: Supervisord) -> bool:
    """Every worker RUNNING and answering a request of its own that goes to the database."""
    pids = site.pids()
    if not site.all_running():
        return False
    for pid in pids.values():
        try:
            connection = client.connect_to(site.url(), pid, pids.values(), timeout_s=2)
        except (OSError, AssertionError):
            return False
        with connection.sock:  # type: ignore[union-attr]
            try:
                status, answer = connection.ask("/db")
            except OSError:
                return False
        if status != 200 or answer.get("pid") != pid:
            return False
    return True
