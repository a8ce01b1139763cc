"""Issue 5: whatever is told to others, and however it fails, nothing is held up and the log has a line a series.

Four workers hang, one after another. Each is replaced in the time that it takes where nobody is told.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from harness import processes
from harness.supervisord import Event, Program, Supervisord, free_port, watched
from harness.waiting import wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

WORKERS = 4
SILENT_AFTER_S = 2
SLOWEST_S = 15.0  # from the hang to the new worker, healthy; 5 s on a quiet machine
NO_SLOWER_S = 5.0
"""Half of a command's deadline: whoever waited for one would be slower than that."""

SECRETS = ("hunter22", "T0K3N")
COMMANDS = {
    "nobody is told": None,
    "hangs": "exec sleep 600",
    "floods stdout": "exec yes",
    "floods stderr": "exec yes >&2",
    "exits 1": "exit 1",
    "ignores TERM, forks": "trap '' TERM; sleep 600 & sleep 600",
}


class Taker(BaseHTTPRequestHandler):
    got: list[Event]  # of its server, in a class of its own

    def do_POST(self) -> None:
        self.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def taker() -> Iterator[tuple[str, list[Event]]]:
    """A URL, and what was posted to it."""
    got: list[Event] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneTaker", (Taker,), {"got": got}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://me:hunter22@127.0.0.1:{server.server_port}/services/T0K3N", got
    server.shutdown()
    server.server_close()


def script(directory: Path, text: str) -> Path:
    file = directory / "page-somebody"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


def hang_each(site: Supervisord) -> list[float]:
    """Seconds from each worker's hang until it was replaced by one that is healthy."""
    took_s = []
    for number in range(WORKERS):
        name = f"web:web-{number}"
        pid = site.pids()[name]
        began = site.fault(name, "/hang/sleep")
        site.wait_event("replaced", 60, worker=name, old_pid=pid)
        took_s.append(round(time.monotonic() - began, 2))
    return took_s


def troubles(site: Supervisord) -> list[str]:
    return [event["message"] for event in site.events("error", reason="notify")]


_USUAL: list[float] = []


@pytest.mark.parametrize("how", COMMANDS)
def test_nothing_is_held_up(how: str, tmp_path: Path, figures: Callable[..., None]) -> None:
    """And the URL is down all the time."""
    text, listen = COMMANDS[how], f"--silent-after {SILENT_AFTER_S}"
    port = free_port()
    if text is not None:
        listen += (
            f' --notify "{script(tmp_path, text)} hunter22" --notify-url http://me:hunter22@127.0.0.1:{port}/T0K3N'
        )
    with watched(Program(numprocs=WORKERS), listen=listen) as site:
        listener = site.listener_pid()
        took_s = hang_each(site)
        told = troubles(site) if text is None else wait_for(lambda: _two(troubles(site)), 30, "both failures")
        rss_mb = processes.resident_bytes(listener) / 1024**2
        figures(how=how, took_s=took_s, rss_mb=round(rss_mb, 1), told=told)
        assert site.listener_pid() == listener, "it was never restarted"
        log = site.log_path.read_text()
        began = time.monotonic()
        site.rpc.stopProcess(site.listener, True)
        assert time.monotonic() - began < 5, "a command under way does not hold up the listener's end"
        wait_for(lambda: not _started_by(site), 10, "the end of the commands")
        assert [secret for secret in SECRETS if secret in log] == []
    assert max(took_s) < SLOWEST_S
    if text is None:
        _USUAL.extend(took_s)
        assert told == []
        return
    assert [message.partition(" failed")[0] for message in sorted(told)] == [
        "--notify page-somebody",
        f"--notify-url http://127.0.0.1:{port}",
    ]
    if _USUAL:  # else this one was run alone
        assert max(took_s) < max(_USUAL) + NO_SLOWER_S


def _two(told: list[str]) -> list[str]:
    assert len(told) <= 2, told
    return told if len(told) == 2 else []


def _started_by(site: Supervisord) -> list[int]:
    """The commands, and what they have started: they have the mark of the test, and no other process here sleeps."""
    return [pid for pid in processes.marked(site.mark) if _command_line(pid)[0] in ("sleep", "yes", "/bin/sh")]


def _command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return [""]


def test_what_arrives_names_worker_reason_and_explanation(
    taker: tuple[str, list[Event]], tmp_path: Path, figures: Callable[..., None]
) -> None:
    url, posted = taker
    file = tmp_path / "got"
    settings = tmp_path / "health.conf"
    settings.write_text(
        f"[supervisor-uvicorn]\nsilent_after = {SILENT_AFTER_S}\nnotify = {script(tmp_path, f'cat >> {file}')} hunter22"
        f"\nnotify_url = {url}\n"
    )
    program = Program(numprocs=WORKERS, environment={"PYTHONFAULTHANDLER": "1"})
    with watched(program, listen=f"--settings {settings}") as site:
        pid = site.pids()["web:web-1"]
        began = site.fault("web:web-1", "/hang/sleep")
        wait_for(lambda: any(one["event"] == "restart" for one in posted), 60, "the POST")
        posted_s = round(time.monotonic() - began, 2)
        wait_for(lambda: file.exists() and file.read_text().count("\n") == len(posted), 30, "the command")
        (restart,) = [one for one in posted if one["event"] == "restart"]
        figures(posted_s=posted_s, notice_bytes=len(json.dumps(restart)), events=[one["event"] for one in posted])
        site.wait_event("replaced", 60, old_pid=pid)
        wait_for(lambda: [one for one in posted if "faulty.py" in _stack(one)], 30, "where it was stuck")
        (logged,) = site.events("restart")
        assert (restart["worker"], restart["pid"], restart["reason"]) == ("web:web-1", pid, "silent")
        assert (restart["program"], restart["host"]) == ("web", socket.gethostname())
        assert {key: restart[key] for key in logged if key != "time"} == {
            key: value for key, value in logged.items() if key != "time"
        }
        assert [json.loads(line) for line in file.read_text().splitlines()] == posted
        assert troubles(site) == []
        assert [secret for secret in SECRETS if secret in site.log_path.read_text()] == []


def _stack(notice: Event) -> str:
    assert notice["worker"] == "web:web-1"
    return " ".join(notice["explanation"]["stack"])


def test_a_command_that_is_not_there_is_refused_before_the_listener_is_ready(tmp_path: Path) -> None:
    listen = f"--notify {tmp_path}/nobody-has-this"
    with Supervisord(Program(numprocs=1), listen=listen, listener_extra="startretries=0") as site:
        wait_for(lambda: site.rpc.getProcessInfo(site.listener)["statename"] == "FATAL", 60, "FATAL")
        log = site.log_path.read_text()
        assert f"notify (--notify): {tmp_path}/nobody-has-this: No such file or directory; write" in log
        assert "Traceback" not in log
