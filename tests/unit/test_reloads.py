"""The reload thread and HUP: what is read again, what is refused whole, and who is told."""

from __future__ import annotations

import argparse
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import verbs_desk
from harness.waiting import wait_for
from verbs_desk import no, page, program, yes

from supervisor_uvicorn import cli, hup, reloads, remedy
from supervisor_uvicorn.exchange import Exchange
from supervisor_uvicorn.intentions import Intention, Intentions
from supervisor_uvicorn.ledger import Reason, Remedy, Restart
from supervisor_uvicorn.model import Member, State
from supervisor_uvicorn.operations import MOST_WORDS
from supervisor_uvicorn.reloads import Reloads
from supervisor_uvicorn.remedies import Remedies
from supervisor_uvicorn.report.events import Event
from supervisor_uvicorn.rosters import Rosters
from supervisor_uvicorn.settings import ListenSettings, Settings, add_flags, load
from supervisor_uvicorn.supervisord.request import Request
from supervisor_uvicorn.verbs import command
from supervisor_uvicorn.watch import Snapshot

# -- reading the file again --------------------------------------------------------------------------------------------


class Desk:
    """The reload thread's surroundings; ``ask`` waits for the answer."""

    def __init__(self, *flags: str, **env: str) -> None:
        parser = argparse.ArgumentParser()
        add_flags(parser)
        args = parser.parse_args(flags)
        self.told: list[Event] = []
        self.board = Exchange(acting=True)
        self.asked: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.reloads = Reloads(args, load(args), env, self.told.append, self.board, self.asked)
        threading.Thread(target=self.reloads.run, daemon=True).start()

    def ask(self, ident: str = "i") -> tuple[bool, str]:
        self.reloads.ask(ident)
        wait_for(lambda: self.board.reloaded, 10, "an answer")
        self.settings, (reply,) = self.board.take_reloaded()
        assert (reply.ident, reply.verb) == (ident, "reload")
        return reply.accepted, reply.detail

    def hup(self) -> Event:
        before = len(self.told)
        self.asked.put(hup.HUP)
        wait_for(lambda: len(self.told) > before, 10, "a line")
        self.settings, replies = self.board.take_reloaded()
        assert replies == []
        return self.told[-1]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "s.conf"
    path.write_text("[supervisor-uvicorn]\nsilent_after=25\n")
    return path


def test_it_is_read_again(file: Path) -> None:
    desk = Desk("--settings", str(file), "--abort-wait", "3")
    assert desk.ask() == (True, "nothing has changed")
    file.write_text("[supervisor-uvicorn]\nsilent_after=20\n[supervisor-uvicorn:web]\npath=/h\n")
    assert desk.ask() == (True, "silent_after 25 -> 20, path none -> /h (web)")
    assert desk.settings is not None
    assert (desk.settings.of("web").silent_after_s, desk.settings.of("web").abort_wait_s) == (20, 3)
    told = desk.told[-1]
    assert (told.kind, told.level) == ("reloaded", "INFO")
    assert told.message == f"{file} was read again: silent_after 25 -> 20, path none -> /h (web)"
    assert told.fields["changed"] == ["silent_after 25 -> 20", "path none -> /h (web)"]


def test_hup_says_the_same_in_the_log(file: Path) -> None:
    desk = Desk("--settings", str(file))
    assert desk.hup().message == f"{file} was read again: nothing has changed"
    file.write_text("[supervisor-uvicorn]\nsilent_after=5\n")
    assert desk.hup().message == f"{file} was read again: silent_after 25 -> 5"
    assert desk.settings is not None


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"SUPERVISOR_PROCESS_NAME": "h", "SUPERVISOR_GROUP_NAME": "h"}, "supervisorctl restart h"),
        ({"SUPERVISOR_PROCESS_NAME": "h_00", "SUPERVISOR_GROUP_NAME": "h"}, "supervisorctl restart h:h_00"),
        ({}, "restart it"),
    ],
)
def test_what_needs_a_restart_is_said_and_the_rest_is_taken(file: Path, names: dict[str, str], said: str) -> None:
    desk = Desk("--settings", str(file), **names)
    file.write_text("[supervisor-uvicorn]\nsilent_after=20\nmetrics=9117\nnotify=/bin/s3cret\n")
    needs = f"metrics none -> 127.0.0.1:9117, notify has changed need a restart of the listener: {said}"
    assert desk.ask() == (True, f"silent_after 25 -> 20; {needs}")
    assert desk.settings is not None
    assert (desk.settings.metrics, desk.settings.general.silent_after_s) == (None, 20)
    assert desk.ask() == (True, needs), "until it is restarted"


def test_flags_alone(file: Path) -> None:
    desk = Desk("--silent-after", "20")
    accepted, why = desk.ask()
    assert not accepted
    assert "no --settings FILE was given, so there is nothing to read again: write command=" in why
    told = desk.hup()
    assert (told.kind, told.level, told.fields["reason"]) == ("error", "ERROR", "settings")
    assert "no --settings FILE was given" in told.message


def emptied(file: Path) -> None:
    file.write_text("")


def cut(file: Path) -> None:
    file.write_text("[supervisor-uvi")


def section_gone(file: Path) -> None:
    file.write_text("[supervisord]\n")


def unreadable(file: Path) -> None:
    file.unlink()
    file.mkdir()


def wrong(file: Path) -> None:
    file.write_text("[supervisor-uvicorn]\nsilent_after=20\nbackoff=soon\n")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (Path.unlink, "{file}: cannot be read: No such file"),
        (unreadable, "{file}: cannot be read: Is a directory"),
        (emptied, "{file}: has no [supervisor-uvicorn] section any more; is it being written?"),
        (section_gone, "{file}: has no [supervisor-uvicorn] section any more"),
        (cut, "{file}: is not a configuration file"),
        (wrong, '{file}, [supervisor-uvicorn], backoff: "soon" is not FIRST:LONGEST in seconds, nor 0; write for exa'),
    ],
)
def test_what_is_wrong_is_refused_whole(file: Path, spoil: Any, said: str) -> None:
    desk = Desk("--settings", str(file))
    good = file.read_text()
    spoil(file)
    accepted, why = desk.ask()
    assert not accepted
    assert why.startswith(said.format(file=file)), why
    assert why.endswith("; the settings stay as they were")
    assert desk.settings is None
    told = desk.hup()
    assert (told.kind, told.fields["reason"], desk.settings) == ("error", "settings", None)
    assert why in told.message
    assert len(desk.told) == 2, "one line each"
    if file.is_dir():
        file.rmdir()
    file.write_text(good.replace("25", "10"))
    assert desk.ask() == (True, "silent_after 25 -> 10"), "against those in force"


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def nul(file: Path) -> None:
    file.write_text("[include]\nfiles=a\0b/*\n[supervisor-uvicorn]\nsilent_after=20\n")


@pytest.mark.parametrize(("spoil", "said"), [(fifo, "it is no regular file"), (nul, "cannot be looked for")])
def test_what_no_settings_file_is(file: Path, spoil: Any, said: str) -> None:
    desk = Desk("--settings", str(file))
    spoil(file)
    accepted, words = desk.ask()
    assert not accepted
    assert said in words
    assert desk.settings is None
    file.unlink()
    file.write_text("[supervisor-uvicorn]\nsilent_after=20\n")
    assert desk.ask() == (True, "silent_after 25 -> 20")


def test_what_nobody_thought_of_is_refused_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk("--settings", str(file))
    with monkeypatch.context() as patched:
        patched.setattr(Reloads, "_read", lambda self: 1 / 0)
        accepted, words = desk.ask()
    assert not accepted
    assert "ZeroDivisionError" in words
    assert desk.ask() == (True, "nothing has changed")


def test_a_reading_that_does_not_end_is_said_to_who_asks_next(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk("--settings", str(file))
    begun, go_on = threading.Event(), threading.Event()
    read = Reloads._read

    def hangs(self: Reloads) -> ListenSettings:
        begun.set()
        go_on.wait(30)
        return read(self)

    monkeypatch.setattr(Reloads, "_read", hangs)
    monkeypatch.setattr(reloads, "STUCK_S", 0.0)
    desk.asked.put(hup.HUP)
    assert begun.wait(10)
    for _ in range(2):
        accepted, words = desk.ask()
        assert not accepted
        assert "the last reading has not ended for" in words
    assert len(desk.told) == 1  # once a series
    go_on.set()
    wait_for(lambda: len(desk.told) == 2, 10, "the reading ended")
    monkeypatch.setattr(reloads, "STUCK_S", 2.0)
    desk.board.take_reloaded()
    assert desk.ask()[0]


def test_an_include_that_has_vanished(tmp_path: Path, file: Path) -> None:
    conf = tmp_path / "conf.d"
    conf.mkdir()
    for name in ("a", "b"):
        (conf / f"{name}.conf").write_text(f"[supervisor-uvicorn:{name}]\nsilent_after=5\n")
    file.write_text("[supervisor-uvicorn]\nsilent_after=25\n[include]\nfiles=conf.d/*.conf\n")
    desk = Desk("--settings", str(file))
    (conf / "a.conf").unlink()
    assert desk.ask() == (True, "silent_after 5 -> 25 (a)"), "one of several is taken away on purpose"
    (conf / "b.conf").unlink()
    accepted, why = desk.ask()
    assert not accepted
    assert f"{file}, [include], files: conf.d/*.conf finds no file any more (before: {conf}/b.conf)" in why
    assert desk.settings is None
    (conf / "b.conf").write_text("[supervisor-uvicorn:b]\nsilent_after=6\n")
    assert desk.ask() == (True, "silent_after 5 -> 6 (b)")
    (conf / "b.conf").unlink()
    file.write_text("[supervisor-uvicorn]\nsilent_after=25\n")
    assert desk.ask() == (True, "silent_after 6 -> 25 (b)"), "the pattern has been taken out as well"


def test_an_include_that_has_nothing_of_ours_may_vanish(tmp_path: Path, file: Path) -> None:
    (tmp_path / "programs.conf").write_text("[program:x]\ncommand=x\n")
    file.write_text("[supervisor-uvicorn]\nsilent_after=25\n[include]\nfiles=programs.conf\n")
    desk = Desk("--settings", str(file))
    (tmp_path / "programs.conf").unlink()
    assert desk.ask() == (True, "nothing has changed")


def test_however_much_is_wrong_the_answer_is_short(file: Path) -> None:
    desk = Desk("--settings", str(file))
    file.write_text("[supervisor-uvicorn]\nabort_wait=" + "x" * 10_000 + "\n" + "key" * 3000 + "=1\n")
    accepted, why = desk.ask()
    assert (accepted, len(why)) == (False, MOST_WORDS)
    assert why.endswith("; the settings stay as they were")


def test_a_secret_that_is_wrong_is_not_written_out(file: Path) -> None:
    desk = Desk("--settings", str(file))
    half = "[supervisor-uvicorn]\nheader=\n  X: y\nX-Token s3cret\n"
    for text, said in (
        ("[supervisor-uvicorn]\nsilent_after=25\nnotify_url=ftp://s3cret\nheader=s3cret\n", "***"),
        (half, f"{file}: is not a configuration file: line 4 is neither [SECTION] nor KEY=VALUE"),
        (half + "s3cret\n" * 5, "line 4, 5, 6, ... is neither"),
        ("X-Token s3cret\n", f"{file}: is not a configuration file: line 1 is neither"),
    ):
        file.write_text(text)
        accepted, why = desk.ask()
        assert not accepted
        assert said in why
        assert "s3cret" not in why + desk.told[-1].message


def test_who_ask_at_once_are_all_answered_by_one_reading(file: Path) -> None:
    desk = Desk("--settings", str(file))
    idle = Desk.__new__(Desk)  # the same, but its thread begins when all have asked
    idle.told, idle.board, idle.asked = [], Exchange(acting=True), queue.SimpleQueue()
    parser = argparse.ArgumentParser()
    add_flags(parser)
    args = parser.parse_args(["--settings", str(file)])
    reloads = Reloads(args, load(args), {}, idle.told.append, idle.board, idle.asked)
    for ident in ("a", hup.HUP, "b", hup.HUP):
        reloads.ask(ident)
    threading.Thread(target=reloads.run, daemon=True).start()
    wait_for(lambda: len(idle.told) == 1 and idle.board.reloaded, 10, "the answers")
    assert [reply.ident for reply in idle.board.take_reloaded()[1]] == ["a", "b"]
    assert desk.told == []


def test_one_that_stands_by_takes_them_without_an_answer(file: Path) -> None:
    desk = Desk("--settings", str(file))
    file.write_text("[supervisor-uvicorn]\nsilent_after=7\n")
    for data in ("garbage", Request("i", "pause").text(), Request("i", "reload").text()):
        desk.reloads.overhear(data)
    wait_for(lambda: desk.told, 10, "a line")
    settings, replies = desk.board.take_reloaded()
    assert settings is not None
    assert (settings.general.silent_after_s, replies, len(desk.told)) == (7, [], 1)


# -- HUP ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("handler")
def test_hup_lands_in_the_queue_and_not_in_children() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        asked = hup.taken()
        assert hup.taken() is asked, "one for a process"
        assert signal.SIGHUP not in signal.pthread_sigmask(signal.SIG_BLOCK, set())
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGHUP)
        assert asked.get(timeout=10) == hup.HUP
    shown = subprocess.run(
        [sys.executable, "-c", "import pathlib; print(pathlib.Path('/proc/self/status').read_text())"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    bit = 1 << (signal.SIGHUP - 1)  # proc(5): SigBlk, SigIgn, SigCgt
    masks = {key: int(value, 16) for key, value in (line.split(":\t") for line in shown.splitlines() if "Sig" in line
                                                     and "/" not in line)}  # fmt: skip
    assert [masks[key] & bit for key in ("SigBlk", "SigIgn", "SigCgt")] == [0, 0, 0]


# -- who works with them -----------------------------------------------------------------------------------------------


def intention(name: str) -> Intention:
    return Intention(name, 7, 7, "silent", "abort", "")


def test_a_group_that_is_dropped_is_read_until_what_was_ended_there_is_back() -> None:
    written = Intentions(None)
    rosters = Rosters(ListenSettings(), written, lambda event: None, Exchange(), lambda: 0.0)
    written.put(intention("api:api-0"))
    rosters.settings = ListenSettings(groups=("web",))
    assert rosters._groups(()) == ("web", "api")
    written.put(intention("old:old-0"))
    assert rosters._groups(("web", "api")) == ("web", "api"), "nobody looked at that one"
    written.keep_only({})
    assert rosters._groups(("web", "api")) == ("web",)
    rosters.settings = ListenSettings()
    assert rosters._groups(("web",)) == ()


def test_a_remedy_keeps_the_settings_with_which_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    monkeypatch.setattr(remedy, "carry_out", lambda order, member, settings, tools, **_: begun.append(settings))
    old = ListenSettings(general=Settings(drain_timeout_s=30))
    remedies = Remedies(old, Intentions(None), lambda event: None, lambda outcome: None, lambda: 0.0)
    member = Member("web:web-0", State.RUNNING, 7, 7)
    assert member.worker is not None
    order = Restart(member.worker, Remedy.DRAIN, Reason.FAILING, "")
    remedies.give(order, Snapshot((member,)))
    remedies.settings = ListenSettings(general=Settings(drain_timeout_s=1))
    remedies.give(order, Snapshot((member,)))
    for _ in range(2):
        remedies._orders.get()(None)  # type: ignore[arg-type]
    assert [settings.drain_timeout_s for settings in begun] == [30, 1]


# -- the verb ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (yes("", "reload", "silent_after 30 -> 20"), 0, "silent_after 30 -> 20\n"),
        (yes("", "reload", "a\nb"), 0, "a\\nb\n"),
        (no("", "reload", "s.conf: cannot be read"), 2, "supervisor-uvicorn reload: refused: s.conf: cannot be read\n"),
    ],
)
def test_the_verb_says_the_listener_s_words(answer: dict[str, Any], code: int, said: str) -> None:
    def play(_: float, request: Request | None) -> dict[str, Any]:
        return page(program(), answers=[{**answer, "id": request.ident}] if request else [])

    desk = verbs_desk.Desk(play)
    screen = verbs_desk.Screen(desk)
    assert command.carry_out(cli.parser().parse_args(["reload"]), desk, screen.console) == code
    assert screen.out.getvalue() + screen.notes == said
    assert [(one.verb, one.names) for one in desk.sent] == [("reload", ())]


def test_the_verb_takes_no_names() -> None:
    with pytest.raises(SystemExit):
        cli.parser().parse_args(["reload", "web"])
