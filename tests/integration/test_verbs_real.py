"""The verbs as commands against a real supervisord; the test is the listener that answers them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness import interpreter
from played_listener import Played, Terminal, played, redirected
from verbs_desk import no, page, program, roll, turn, worker, yes


@pytest.fixture(scope="module")
def stage() -> Iterator[Played]:
    with played() as stage:
        yield stage


def begin(stage: Played, *words: str, out: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [interpreter.python(), "-m", "supervisor_uvicorn", *words, "-c", str(stage.site.conf_path)],
        env=stage.site.environment,
        cwd=stage.site.scratch,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
    )


def act(stage: Played, ident: str, *stages: str, **more: Any) -> None:
    """Report a roll of as many workers as ``stages``, accepted."""
    turns = [
        turn(f"web:web-{number}", stage, 100 + number, 200 + number if stage == "done" else None)
        for number, stage in enumerate(stages)
    ]
    its = page(program(roll=roll(ident, *turns, **more)), answers=[yes(ident, detail="rolling 2 workers of web")])
    stage.report(its)


def test_before_anybody_reported() -> None:
    with played() as fresh:
        for verb in (["status"], ["restart", "web"], ["pause"], ["resume"], ["history"]):
            done = fresh.site.cli(*verb, "-c", str(fresh.site.conf_path))
            assert (done.returncode, done.stdout) == (2, ""), done
            assert "no listener has reported since supervisord was started" in done.stderr
            assert "[eventlistener:uvicorn-health]" in done.stderr
        assert fresh.requests() == []


def test_without_the_plugin() -> None:
    with played(sections="", listener=False) as bare:
        for verb in (["status"], ["restart", "web"], ["pause"], ["resume"], ["history"]):
            done = bare.site.cli(*verb, "-c", str(bare.site.conf_path))
            assert (done.returncode, done.stdout) == (2, ""), done
            assert "[rpcinterface:uvicorn]\nsupervisor.rpcinterface_factory" in done.stderr
            assert "supervisor-uvicorn check" in done.stderr


def test_status(stage: Played) -> None:
    stage.report(page(program()))
    done = stage.site.cli("status", "--json", "-c", str(stage.site.conf_path))
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert 0 <= found["age_s"] < 15
    assert found["programs"][0]["workers"][0]["since_s"] >= 100
    done = stage.site.cli("status", "-s", stage.site.server_url, "web:web-1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "web:web-1" in done.stdout
    assert "web:web-0" not in done.stdout
    stage.report(page(program(workers=[worker(verdict="silent", reason="not read for 31 s")])))
    assert stage.site.cli("status", "-s", stage.site.server_url).returncode == 1


def test_a_page_that_grows_old_by_supervisord_s_clock(stage: Played) -> None:
    stage.report(page(program(), listener={"pid": 1, "reports_every_s": 0.01, "dry_run": False}))
    done = stage.site.cli("status", "-c", str(stage.site.conf_path))
    assert done.returncode == 2
    assert "web:web-0" in done.stdout
    assert "has not reported for" in done.stderr
    done = stage.site.cli("restart", "web", "-c", str(stage.site.conf_path))
    assert (done.returncode, done.stdout) == (2, "")
    # Events keep their order: had that one been sent, it would stand before this one.
    stage.report(page(program()))
    process = begin(stage, "resume")
    request = stage.next_request()
    assert request["verb"] == "resume"
    stage.report(page(program(), answers=[yes(request["id"])]))
    process.communicate(timeout=30)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pause", "--for", "2m", "web"], ("pause", ["web"], 120.0)),
        (["pause"], ("pause", [], None)),
        (["resume", "web:*"], ("resume", ["web:*"], None)),
    ],
)
def test_pause_and_resume(stage: Played, words: list[str], expected: tuple[str, list[str], float | None]) -> None:
    stage.report(page(program()))
    process = begin(stage, *words)
    request = stage.next_request()
    assert (request["verb"], request["names"], request["for_s"]) == expected
    stage.report(page(program(), answers=[yes(request["id"], request["verb"], "as you say")]))
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "as you say\n", "")


def test_a_refusal(stage: Played) -> None:
    stage.report(page(program()))
    process = begin(stage, "restart", "wob")
    request = stage.next_request()
    stage.report(page(program(), answers=[no(request["id"], "restart", "wob: no such program")]))
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert err == "supervisor-uvicorn restart: refused: wob: no such program\n"


def test_restart_is_followed_to_its_end(stage: Played) -> None:
    stage.report(page(program()))
    process = begin(stage, "restart", "web")
    request = stage.next_request()
    assert (request["verb"], request["names"]) == ("restart", ["web"])
    assert process.stdout is not None
    act(stage, request["id"], "under way", "waiting")
    assert process.stdout.readline() == "rolling 2 workers of web\n"
    assert process.stdout.readline() == "web:web-0: pid 100 is being replaced\n", "said when it happens"
    act(stage, request["id"], "done", "under way")
    assert process.stdout.readline() == "web:web-0: pid 100 -> 200\n"
    act(stage, request["id"], "done", "done", state="done", took_s=12.34)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[-1] == "web: done, 2 workers in 12.3 s"


def test_restart_that_is_stopped_or_takes_too_long(stage: Played) -> None:
    stage.report(page(program()))
    process = begin(stage, "restart", "web")
    act(stage, stage.next_request()["id"], "under way", "waiting", state="stopped", detail="bad code")
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out.splitlines()[-1]) == (1, "web: stopped: bad code")
    stage.report(page(program()))
    process = begin(stage, "restart", "--timeout", "1", "web")
    act(stage, stage.next_request()["id"], "under way", "waiting")
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "web: still rolling after 1 s, 0 of 2 done. It goes on: supervisor-uvicorn status" in out


def test_ctrl_c_leaves_the_roll(stage: Played) -> None:
    stage.report(page(program()))
    process = begin(stage, "restart", "web")
    act(stage, stage.next_request()["id"], "under way", "waiting")
    assert process.stdout is not None
    assert process.stdout.readline() == "rolling 2 workers of web\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (1, "the roll goes on: supervisor-uvicorn status\n")


def test_a_reader_that_leaves_early(stage: Played) -> None:
    stage.report(page(program()))
    process = begin(stage, "restart", "web")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    act(stage, stage.next_request()["id"], "under way", "waiting")
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (1, "")


@pytest.mark.parametrize("verb", [["status"], ["status", "--json"], ["history"], ["restart", "web"], ["pause"]])
def test_a_closed_stdout_is_said_and_nothing_is_asked(stage: Played, verb: list[str]) -> None:
    stage.report(page(program()))
    before = len(stage.requests())
    command = [interpreter.python(), "-m", "supervisor_uvicorn", *verb, "-c", str(stage.site.conf_path)]
    done = redirected(stage, command, ">&-")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"supervisor-uvicorn {verb[0]}: there is no standard output to write to (descriptor 1 is closed)\n"
    )
    done = redirected(stage, command, ">&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    # Events keep their order: had one of these been sent, it would stand before this one.
    process = begin(stage, "resume")
    request = stage.next_request()
    assert (request["verb"], len(stage.requests())) == ("resume", before + 1)
    stage.report(page(program(), answers=[yes(request["id"])]))
    process.communicate(timeout=30)


def test_a_full_disk_is_said(stage: Played) -> None:
    stage.report(page(program()))
    command = [interpreter.python(), "-m", "supervisor_uvicorn", "status", "-c", str(stage.site.conf_path)]
    done = redirected(stage, command, ">/dev/full")
    assert done.returncode == 2
    assert done.stderr == "supervisor-uvicorn status: cannot write to standard output: No space left on device\n"
    done = redirected(stage, command, ">/dev/full 2>&1")
    assert (done.returncode, done.stderr) == (2, "")
    with open("/dev/full", "w") as full:
        process = begin(stage, "restart", "web", out=full.fileno())
    act(stage, stage.next_request()["id"], "under way", "waiting")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert err == (
        "supervisor-uvicorn restart: cannot write to standard output: No space left on device; "
        "the listener was asked all the same, and goes on\n"
    )


def test_it_is_asked_by_supervisord_s_clock(stage: Played) -> None:
    stage.report(page(program()))
    process = begin(stage, "resume")
    request = stage.next_request()
    assert abs(request["sent_at"] - time.time()) < 10, "the same machine, so the same clock"
    note = stage.board.read()
    assert note is not None
    assert request["sent_at"] >= note.at
    stage.report(page(program(), answers=[yes(request["id"])]))
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_roll_that_was_followed_by_another_at_once(stage: Played) -> None:
    stage.report(page(program()))
    process = begin(stage, "restart", "web")
    ident = stage.next_request()["id"]
    act(stage, ident, "under way", "waiting")
    assert process.stdout is not None
    assert process.stdout.readline() == "rolling 2 workers of web\n"
    mine = roll(ident, turn("web:web-0", "done", 100, 200), state="done", took_s=1.5)
    theirs = roll("other", turn("web:web-0", "under way", 200))
    stage.report(page(program(roll=theirs, earlier_roll=mine), answers=[yes(ident), yes("other")]))
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert out.endswith("web: done, 1 worker in 1.5 s\n")


@pytest.mark.parametrize("text", ["[" * 5000, '{"version": 1, "programs": [{"name": "web", "roll": {"asked": null}}]}'])
def test_a_board_of_somebody_else(stage: Played, text: str) -> None:
    assert stage.board.report(text)
    for verb in (["status"], ["restart", "web"], ["pause"], ["history", "nix"]):
        done = stage.site.cli(*verb, "-c", str(stage.site.conf_path))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"supervisor-uvicorn {verb[0]}: ")
        assert "Traceback" not in done.stderr


def test_on_a_terminal_a_bar(stage: Played) -> None:
    stage.report(page(program()))
    terminal = Terminal()
    try:
        process = begin(stage, "restart", "web", out=terminal.slave)
        os.close(terminal.slave)
        ident = stage.next_request()["id"]
        act(stage, ident, "done", "under way")
        shown = terminal.see("web [=====>    ] 1/2 web:web-1 under way")
        act(stage, ident, "done", "done", state="done", took_s=3.0)
        shown += terminal.see("web: done, 2 workers in 3.0 s")
        assert process.wait(30) == 0
        process.communicate()
    finally:
        terminal.close()
    assert shown.count("\n") == 1, "what was answered; the bar is rewritten in place"


def test_a_listener_that_comes_back_in_the_middle(stage: Played) -> None:
    stage.report(page(program()))
    process = begin(stage, "restart", "web")
    ident = stage.next_request()["id"]
    act(stage, ident, "under way", "waiting")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "rolling 2 workers of web\n"
    turns = [turn("web:web-0", "under way", 100), turn("web:web-1", old=101)]
    dead = page(program(roll=roll(ident, *turns)), listener={"pid": 1, "reports_every_s": 0.001, "dry_run": False})
    stage.report(dead)
    assert "has not reported for" in process.stderr.readline()
    act(stage, ident, "done", "done", state="done", took_s=3.0)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert err.endswith("the listener reports again\n")
    assert out.endswith("web: done, 2 workers in 3.0 s\n")


def test_history(stage: Played) -> None:
    stage.report(page(program()))
    done = stage.site.cli("history", "-c", str(stage.site.conf_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "nothing has been done yet\n")
    entry = {"time": "2026-11-22T10:00:00+00:00", "level": "WARN", "event": "restart", "message": "web:web-0 silent"}
    cell = {"version": 1, "entries": [{**entry, "worker": "web:web-0"}], "restarts": {"web:web-0": 1}}
    assert stage.board.keep("history", json.dumps(cell))
    done = stage.site.cli("history", "-c", str(stage.site.conf_path), "web")
    assert (done.returncode, done.stdout) == (0, "2026-11-22T10:00:00+00:00  restart        web:web-0 silent\n")
    done = stage.site.cli("history", "--json", "-c", str(stage.site.conf_path), "web:web-1")
    assert json.loads(done.stdout) == {"entries": []}
    done = stage.site.cli("history", "-c", str(stage.site.conf_path), "nix")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("supervisor-uvicorn history: nix: no such uvicorn worker or program (programs here: web)\n")


def test_a_ctlplugin_of_somebody_that_cannot_be_imported_is_no_matter_of_ours(stage: Played) -> None:
    stage.report(page(program()))
    conf = stage.site.scratch / "other.conf"
    conf.write_text(
        f"[supervisorctl]\nserverurl={stage.site.server_url}\n"
        "[ctlplugin:theirs]\nsupervisor.ctl_factory = not_there:make\n"
    )
    assert stage.site.cli("status", "-c", str(conf)).returncode == 0
