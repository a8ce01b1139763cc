"""``status --watch`` in a real terminal, of a real supervisord; and what it writes where there is none."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator

import pytest
from harness import interpreter
from harness.supervisord import PLUGIN, Program, Supervisord, watched
from harness.waiting import wait_for
from played_listener import Played, played
from verbs_desk import page, program, worker

from supervisor_uvicorn.verbs.console import ENTER, ERASE_BELOW, ERASE_LINE, HOME, LEAVE

EVIL = "\x1b[2J\x1b]0;mine\x07\x9b1m"


@pytest.fixture(scope="module")
def stage() -> Iterator[Played]:
    with played() as stage:
        yield stage


class Tty:
    """A terminal, and a command in it that has it as its own: a key is a signal there, as under a shell."""

    def __init__(self, site: Supervisord, command: list[str], columns: int = 100, lines: int = 24) -> None:
        self._master, slave = pty.openpty()
        self._decode = codecs.getincrementaldecoder("utf-8")("strict").decode
        self.written = ""
        self.resize(columns, lines)
        self._slave = slave
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],  # setsid(1): the terminal on stdin becomes that of a session of its own
            env={**site.environment, "TERM": "xterm", "PYTHONIOENCODING": "utf-8"},
            cwd=site.scratch,
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, key: str) -> None:
        os.write(self._master, key.encode())

    def read(self) -> str:
        """All that was written so far."""
        while select.select([self._master], [], [], 0.02)[0]:
            self.written += self._decode(os.read(self._master, 65536))
        return self.written

    @property
    def picture(self) -> list[str]:
        """The lines of the last whole picture."""
        whole = [part for part in self.read().split(HOME)[1:] if ERASE_BELOW in part]
        last = whole[-1] if whole else ""
        return last.partition(ERASE_BELOW)[0].replace(ERASE_LINE, "").splitlines()

    def row(self, name: str) -> str:
        return next((line for line in self.picture if line.startswith(f"{name} ")), "")

    def see(self, pattern: str, deadline_s: float = 30.0) -> None:
        """Wait until a line of the picture matches."""

        def seen() -> bool:
            return any(re.search(pattern, line) for line in self.picture)

        try:
            wait_for(seen, deadline_s, f"a line like {pattern!r}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n" + "\n".join(self.picture)) from None

    def ended(self, deadline_s: float = 30.0) -> int:
        wait_for(lambda: self.read() is not None and self.process.poll() is not None, deadline_s, "its end")
        self.read()
        return self.process.returncode

    def left_as_it_was(self) -> bool:
        return self.written.count(ENTER) == self.written.count(LEAVE) and termios.tcgetattr(self._slave) == self.before

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._slave)
        os.close(self._master)


def status(site: Supervisord, *words: str) -> list[str]:
    return [interpreter.python(), "-m", "supervisor_uvicorn", "status", "--watch", "-c", str(site.conf_path), *words]


@contextlib.contextmanager
def terminal(site: Supervisord, command: list[str], columns: int = 100, lines: int = 24) -> Iterator[Tty]:
    tty = Tty(site, command, columns, lines)
    try:
        yield tty
    finally:
        tty.close()


def test_it_is_live_until_ctrl_c(stage: Played) -> None:
    stage.report(page(program()))
    with terminal(stage.site, status(stage.site)) as tty:
        tty.see(r"2 of 2 healthy  reported \d+\.\d s ago by pid 5")
        stage.report(page(program(workers=[worker(), worker("web:web-1", 12, verdict="silent", reason="for 31 s")])))
        tty.see("^web:web-1 .* silent ")
        tty.see("^    for 31 s$")
        assert tty.row("web:web-1").endswith("▁!"), "one mark for each report"
        tty.press("\x03")
        assert tty.ended() == 1, "of the last look"
        assert tty.left_as_it_was()
        end = tty.written.rpartition(LEAVE)[2]
        assert "web:web-1" in end, "what was seen last stays"
        assert "Traceback" not in tty.written


def test_a_resize_is_followed(stage: Played) -> None:
    many = [worker(f"web:web-{number}", 100 + number) for number in range(40)]
    many[33].update(verdict="failing", reason="status 500")
    stage.report(page(program(workers=many)))
    with terminal(stage.site, status(stage.site)) as tty:
        tty.see(r"^\.\.\. \d+ more$")
        assert len(tty.picture) == 24
        tty.resize(60, 7)
        wait_for(lambda: len(tty.picture) == 7, 30, "a picture of seven lines")
        assert [line.split()[0] for line in tty.picture[3:6]] == ["web:web-33", "status", "web:web-0"]
        assert max(map(len, tty.picture)) < 60
        tty.resize(100, 60)
        wait_for(lambda: len(tty.picture) == 44, 30, "all of them")
        tty.press("\x03")
        assert tty.ended() == 1


def test_no_word_of_a_worker_reaches_the_terminal_s_ears(stage: Played) -> None:
    stage.report(page(program(workers=[worker(verdict=EVIL, reason=EVIL, held=EVIL), worker(EVIL, 12)], detail=EVIL)))
    with terminal(stage.site, status(stage.site)) as tty:
        tty.see(r"\\x1b\[2J")
        tty.press("\x03")
        assert tty.ended() == 1
        for known in (ENTER, LEAVE, HOME, ERASE_LINE, ERASE_BELOW, "\r\n", "\n", "^C"):
            tty.written = tty.written.replace(known, "")
        assert tty.written.isprintable()


def test_ctrl_z_gives_the_terminal_back_and_fg_takes_it_again(stage: Played) -> None:
    stage.report(page(program()))
    shell = ["/bin/sh", "-c", 'set -m; "$@"; echo STOPPED; fg', "sh", *status(stage.site)]
    with terminal(stage.site, shell) as tty:
        tty.see("2 of 2 healthy")
        tty.press("\x1a")
        wait_for(lambda: "STOPPED" in tty.read(), 30, "the shell's word")
        assert tty.written.partition("STOPPED")[0].count(LEAVE) == 1
        wait_for(lambda: tty.read().count(ENTER) == 2, 30, "the picture again")
        tty.see("2 of 2 healthy")
        tty.press("\x03")
        tty.ended()
        assert tty.written.count(ENTER) == tty.written.count(LEAVE) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_the_cursor(stage: Played, number: signal.Signals) -> None:
    stage.report(page(program()))
    with terminal(stage.site, status(stage.site)) as tty:
        tty.see("2 of 2 healthy")
        tty.process.send_signal(number)
        assert tty.ended() == (143 if number is signal.SIGTERM else 0)
        assert tty.left_as_it_was()


def test_under_supervisorctl(stage: Played) -> None:
    stage.report(page(program()))
    ctl = [interpreter.python(), "-m", "supervisor.supervisorctl", "-c", str(stage.site.conf_path)]
    with terminal(stage.site, [*ctl, "uvicorn", "status", "--watch"]) as tty:
        tty.see("2 of 2 healthy")
        stage.report(page(program(workers=[worker()])))
        tty.see("1 of 1 healthy")
        tty.press("\x03")
        assert tty.ended() == 0
        assert tty.left_as_it_was()


def test_piped_it_is_a_table_a_second(stage: Played) -> None:
    stage.report(page(program()))
    with subprocess.Popen(
        status(stage.site),
        env={**stage.site.environment, "TERM": "xterm"},
        cwd=stage.site.scratch,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            found = [process.stdout.readline() for _ in range(8)]
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")
    assert [line.split()[0] for line in found] == ["web", "NAME", "web:web-0", "web:web-1"] * 2
    assert "\x1b" not in "".join(found) + rest


def test_a_hung_worker_s_line() -> None:
    with (
        watched(Program(numprocs=2), "--silent-after 2 --dry-run", sections=PLUGIN) as site,
        terminal(site, status(site), columns=140) as tty,
    ):
        tty.see("2 of 2 healthy .* dry run", 60)
        tty.see(r"^web:web-0 .* [0-9]+M +[0-9]+s ", 60)
        site.fault("web:web-1", "/hang/sleep")
        tty.see(r"^web:web-1 .* silent +[0-9.]+ s .*!$", 60)
        tty.see("^    .* held: dry-run|^    .* for [0-9.]+ s")
        tty.see("1 of 2 healthy")
        assert re.search(r"^web:web-0 .* healthy ", tty.row("web:web-0"))
        tty.press("\x03")
        assert tty.ended() == 1


def test_a_worker_that_was_replaced() -> None:
    with (
        watched(Program(numprocs=2), "--silent-after 2", sections=PLUGIN) as site,
        terminal(site, status(site), columns=140) as tty,
    ):
        tty.see("2 of 2 healthy", 60)
        tty.see(r"^web:web-1 .* healthy .* 0         -")
        site.fault("web:web-1", "/hang/sleep")
        tty.see(r"^web:web-1 .* healthy .* 1         silent \d+s ago", 60)
        assert re.search(r"^web:web-0 .* healthy .* 0         - ", tty.row("web:web-0"))
        tty.press("\x03")
        assert tty.ended() == 0
        assert tty.left_as_it_was()
