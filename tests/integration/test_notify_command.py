"""``--notify`` with real commands that do whatever one may do: nothing is held up, nothing grows, nothing stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import processes
from harness.waiting import wait_for

from supervisor_uvicorn.delivery import Attempt, Result
from supervisor_uvicorn.model import WorkerId
from supervisor_uvicorn.notices import Notices, run_command
from supervisor_uvicorn.report import events
from supervisor_uvicorn.report.notice import MOST_BYTES
from supervisor_uvicorn.settings import ListenSettings

LARGEST = b"x" * (MOST_BYTES - 1) + b"\n"
SECRET = "hunter22"
RESTART = events.Restarting(WorkerId("web:web-0", 4711, 1), "silent", "no turn", "abort", "silent")


@pytest.fixture(autouse=True)
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Whatever a command leaves behind is found by it; and no zombie and no descriptor is left to us."""
    found = uuid.uuid4().hex
    monkeypatch.setenv(processes.MARKER, found)
    descriptors = processes.descriptors(os.getpid())
    yield found
    try:
        wait_for(lambda: not processes.marked(found), 15, "the end of all that was started")
        wait_for(lambda: processes.descriptors(os.getpid()) <= descriptors, 15, "all descriptors closed")
        with pytest.raises(ChildProcessError):
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    finally:
        processes.kill_marked(found)


def shell(script: str, deadline_s: float = 30.0, data: bytes = LARGEST) -> tuple[Attempt, float]:
    """What became of it, and the seconds that it took. The secret is among its arguments."""
    begin = time.monotonic()
    attempt = run_command(["sh", "-c", script, "sh", SECRET], data, deadline_s)
    assert SECRET not in attempt.why
    return attempt, time.monotonic() - begin


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


# -- what a command may do


def test_it_reads_the_whole_notice(tmp_path: Path) -> None:
    file = tmp_path / "got"
    attempt, _ = shell(f"cat > {file}")
    assert attempt == Attempt(Result.SENT)
    assert file.read_bytes() == LARGEST


def test_it_has_a_session_of_its_own_and_none_of_our_descriptors(tmp_path: Path) -> None:
    file = tmp_path / "got"
    with open("/dev/null") as ours:
        os.set_inheritable(ours.fileno(), True)
        attempt, _ = shell(f"ls /proc/$$/fd > {file}; cat /proc/$$/stat >> {file}")
    assert attempt.result is Result.SENT
    *descriptors, stat = file.read_text().splitlines()
    assert {"0", "1", "2"} <= set(descriptors)
    assert len(descriptors) <= 4, "and the shell's own"
    group, session = map(int, stat.rpartition(")")[2].split()[2:4])
    assert group == session != os.getsid(0)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exit 1", "exit code 1"),
        ("echo one >&2; echo '  two  ' >&2; echo >&2; exit 7", "exit code 7: two"),
        (f"echo no {SECRET} for you >&2; exit 1", "exit code 1: no *** for you"),
        ("exec 0<&- 2>&-; exit 3", "exit code 3"),
        ("kill -9 $$", "it was ended by signal 9 (SIGKILL)"),
        ("echo oops >&2; kill -11 $$", "it was ended by signal 11 (SIGSEGV): oops"),
        ("head -c 3000000 /dev/zero | tr '\\0' 'y' >&2; echo; echo end >&2; exit 4", "exit code 4"),  # half a word
        ("head -c 3000000 /dev/zero | tr '\\0' 'y' >&2; echo ' end' >&2; exit 4", "exit code 4: end"),
    ],
)
def test_a_failure_says_how_it_ended_and_its_last_words(script: str, why: str, tmp_path: Path) -> None:
    file = tmp_path / "page"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    attempt = run_command([str(file), SECRET], LARGEST, 30.0)
    assert (attempt.result, attempt.why) == (Result.FAILED, why)


def test_long_last_words_are_cut() -> None:
    attempt = run_command(["sh", "-c", 'printf %0500d 7 | tr 0 "\\303" >&2; exit 1'], b"{}\n")
    assert attempt.why.startswith("exit code 1: ")
    assert attempt.why.endswith("...")
    assert len(attempt.why) < 230


@pytest.mark.parametrize("script", ["sleep 600", "trap '' TERM INT HUP; while :; do sleep 1; done", "kill -STOP $$"])
def test_one_that_hangs_is_killed_at_its_deadline_also_with_a_full_pipe(script: str) -> None:
    attempt, took_s = shell(script, deadline_s=1.0)
    assert (attempt.result, attempt.why) == (Result.FAILED, "it had not ended after 1 s, and was killed")
    assert 1.0 <= took_s < 10


def test_what_it_leaves_behind_ends_with_it(tmp_path: Path, mark: str) -> None:
    attempt, took_s = shell(f"sleep 600 & echo $! > {tmp_path}/pid; trap '' TERM; exit 0")
    assert attempt.result is Result.SENT
    assert took_s < 10, "its stderr is still open, and that is no reason to wait"
    wait_for(lambda: not processes.alive(int((tmp_path / "pid").read_text())), 10, "its end")


def test_at_the_deadline_all_of_its_group_ends(mark: str) -> None:
    attempt, _ = shell("sleep 600 & sleep 600 & wait", deadline_s=0.5)
    assert attempt.result is Result.FAILED
    wait_for(lambda: not processes.marked(mark), 10, "the end of its group")


@pytest.mark.parametrize("where", ["1", "2"])
def test_endless_output_neither_grows_us_nor_takes_our_time(where: str, figures: Callable[..., None]) -> None:
    shell("exit 0")
    rss, cpu_s = processes.resident_bytes(os.getpid()), time.process_time()
    attempt, took_s = shell(f"exec yes >&{where}", deadline_s=3.0)
    used_s = time.process_time() - cpu_s
    grown_bytes = processes.resident_bytes(os.getpid()) - rss
    figures(where=where, used_s=round(used_s, 3), grown_kb=grown_bytes // 1024)
    assert attempt.why.startswith("it had not ended after 3 s, and was killed")
    assert took_s < 20
    assert used_s < 1.0
    assert grown_bytes < 8 * 1024 * 1024


def test_it_has_the_usual_signals(tmp_path: Path) -> None:
    """Python ignores PIPE, which makes "yes | head" of a script complain."""
    file = tmp_path / "got"
    attempt, _ = shell(f"grep SigIgn /proc/self/status > {file}")
    assert attempt.result is Result.SENT
    ignored = int(file.read_text().split()[1], 16)
    assert not ignored & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1) | 1 << (signal.SIGTERM - 1))


def test_one_that_writes_much_and_ends_is_no_failure() -> None:
    attempt, _ = shell("head -c 1000000 /dev/zero >&2")
    assert attempt.result is Result.SENT


# -- what cannot be started


def test_one_that_is_gone_closed_or_no_program_says_so(tmp_path: Path) -> None:
    file = tmp_path / "page"
    assert run_command([str(file), SECRET], LARGEST).why == "it cannot be started: No such file or directory"
    file.write_bytes(b"\x7fELF, but no program")
    assert "may execute" in run_command([str(file), SECRET], LARGEST).why
    file.chmod(0o755)
    assert run_command([str(file), SECRET], LARGEST).why == "exit code 1: cannot be started: Exec format error"
    file.write_text("#!/nobody/has/this\n")
    assert run_command([str(file), SECRET], LARGEST).why == "exit code 1: cannot be started: No such file or directory"
    assert "cannot be passed on" in run_command(["sh", "a\0b"], LARGEST).why


def test_without_descriptors_it_fails_and_goes_on_when_there_are_some() -> None:
    code = """
import os, resource
from supervisor_uvicorn.notices import run_command
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 2, hard))
for _ in range(3):
    print(run_command(["sh", "-c", "true"], b"{}").why)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(run_command(["sh", "-c", "true"], b"{}").result.name)
"""
    out, _ = python(code).communicate(timeout=60)
    assert out.splitlines() == ["it cannot be started: Too many open files"] * 3 + ["SENT"]


def test_a_thousand_starts_are_not_needed_to_see_that_nothing_leaks() -> None:
    """The fixture looks at descriptors, zombies and processes."""
    for script in ("exit 0", "exit 1", "sleep 600 &", "kill -9 $$") * 3:
        shell(script)
    shell("sleep 600", deadline_s=0.1)


# -- the listener's end

HANGS = """
import sys
from supervisor_uvicorn.notices import *
from supervisor_uvicorn.report import events
script = "trap '' TERM; sleep 600 & echo $! > " + sys.argv[1] + "; wait"
notices = Notices(ListenSettings(notify=("sh", "-c", script)), print)
notices.start()
notices.put(events.Suspended("web", "is suspended", "budget"))
sys.stdin.read()
"""


@pytest.mark.parametrize("killed", [True, False])
def test_a_command_under_way_holds_no_end_up_and_ends_with_us(killed: bool, tmp_path: Path, mark: str) -> None:
    """With what it has started: most commands are scripts that wait for something else."""
    file = tmp_path / "pid"
    listener = python(HANGS, str(file))
    try:
        pid = int(wait_for(lambda: file.exists() and file.read_text().strip(), 30, "the command"))
        begin = time.monotonic()
        if killed:
            listener.send_signal(signal.SIGKILL)
        listener.communicate(timeout=30)
        assert time.monotonic() - begin < 5
        wait_for(lambda: not processes.alive(pid), 10, "the end of what the command waits for")
        wait_for(lambda: not processes.marked(mark), 10, "the command's end")
    finally:
        listener.kill()
        listener.wait()


# -- a channel


def start(*command: str) -> tuple[Notices, list[events.Event], Counter[str]]:
    told, counts = list[events.Event](), Counter[str]()

    def count(channel: str, outcome: str) -> None:
        assert channel == "command"
        counts[outcome] += 1

    notices = Notices(ListenSettings(notify=command), told.append, count)
    notices.start()
    return notices, told, counts


def test_it_gets_each_event_that_is_one_for_others_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "got"
    notices, told, counts = start("sh", "-c", f"cat >> {file}")
    for event in (
        RESTART,
        events.Error("", "ours"),
        events.Pinned(RESTART.worker),
        events.WouldRestart(RESTART.worker, "silent", "no turn", "abort", "silent"),
        events.Resumed("web", "is acted on again"),
    ):
        notices.put(event)
    wait_for(lambda: counts["sent"] == 2, 30, "both")
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(one["event"], one["program"]) for one in found] == [("restart", "web"), ("resumed", "web")]
    assert found[0]["worker"] == "web:web-0"
    assert told == []


def test_a_series_of_failures_is_told_once_and_none_is_run_twice(tmp_path: Path) -> None:
    well, ran = tmp_path / "well", tmp_path / "ran"
    script = f"echo run >> {ran}; echo {SECRET} is wrong >&2; test -e {well}"
    notices, told, counts = start("/bin/sh", "-c", script, "sh", SECRET)
    for _ in range(5):
        notices.put(RESTART)
    wait_for(lambda: counts["failed"] == 5, 30, "five failures")
    well.touch()
    notices.put(RESTART)
    wait_for(lambda: counts["sent"] == 1, 30, "one that went well")
    wait_for(lambda: len(told) == 2, 10, "what is told of it")
    assert told[0].message == (
        "--notify sh failed: exit code 1: *** is ***; this notice is lost. Told again when it works"
    )
    assert told[1].message == "--notify sh works again, after 5 failures, 5 notices lost"
    assert {(one.kind, one.fields["reason"]) for one in told} == {("error", "notify")}
    assert len(ran.read_text().splitlines()) == 6


FLOOD_OF_NEWS = """
import sys, time
from supervisor_uvicorn.notices import *
from supervisor_uvicorn.report import events
counts = []
notices = Notices(ListenSettings(notify=("sleep", "600")), print, lambda channel, outcome: counts.append(outcome))
notices.start()
longest_s = 0.0
for _ in range(1000):
    begin = time.perf_counter()
    notices.put(events.Suspended("web", "is suspended", "budget"))
    longest_s = max(longest_s, time.perf_counter() - begin)
while "failed" not in counts or "dropped" not in counts:
    time.sleep(0.05)
print(longest_s, counts.count("dropped"))
"""


def test_put_is_quick_while_one_hangs_and_what_waits_is_bounded(figures: Callable[..., None]) -> None:
    """In a process of its own, which leaves while the next one hangs."""
    out, _ = python(FLOOD_OF_NEWS).communicate(timeout=60)
    *told, last = out.splitlines()
    longest_s, dropped = float(last.split()[0]), int(last.split()[1])
    figures(longest_put_ms=round(longest_s * 1000, 2), dropped=dropped)
    assert longest_s < 0.5
    assert dropped == 900
    assert ["failed: it had not ended after 10 s" in line for line in told].count(True) == 1
    assert ["the oldest are dropped" in line for line in told].count(True) == 1
