"""The listener and supervisord: what each says to the other, and what the listener says when something lacks."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import interpreter, processes
from harness.supervisord import Program, Supervisord, free_port
from harness.waiting import stays_true, wait_for

MAIN = "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"


def lame(server: str, rpcinterface: str = MAIN, extra: str = "") -> str:
    """A configuration in which the listener cannot do its work."""
    section = Supervisord.listener_section("uvicorn-health", "", Path("{scratch}/listener.log"), 5, extra)
    return (
        "[supervisord]\nlogfile={scratch}/supervisord.log\npidfile={scratch}/supervisord.pid\n"
        f"childlogdir={{scratch}}\n{server}\n{rpcinterface}\n{section}"
    )


class Lame(Supervisord):
    """One whose RPC server does not answer us: it is up when the listener has been started."""

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None
        return self.log_path.exists()


def said(site: Supervisord) -> str:
    return site.log_path.read_text() if site.log_path.exists() else ""


@pytest.mark.parametrize(
    ("server", "rpcinterface", "wanted"),
    [
        ("", MAIN, ["[unix_http_server]\nfile=", "[rpcinterface:supervisor]\n"]),
        (
            "[unix_http_server]\nfile={scratch}/supervisor.sock\n",
            "",
            ["[rpcinterface:supervisor]\n", "make_main_rpcint"],
        ),
        (
            "[inet_http_server]\nport=127.0.0.1:PORT\nusername=me\npassword=secret\n",
            MAIN,
            ["HTTP 401", 'SUPERVISOR_USERNAME="..."', 'SUPERVISOR_PASSWORD="..."'],
        ),
    ],
)
def test_what_lacks_is_named_with_the_section_that_mends_it(server: str, rpcinterface: str, wanted: list[str]) -> None:
    with Lame(conf=lame(server.replace("PORT", str(free_port())), rpcinterface), listen=None) as site:
        text = wait_for(lambda: said(site) if wanted[0] in said(site).replace("\\n", "\n") else "", 30, "the mend")
        for words in wanted:
            assert words in text.replace("\\n", "\n").replace('\\"', '"')
        assert "Traceback" not in text


def test_a_wrong_password_is_said_to_be_wrong() -> None:
    server = f"[inet_http_server]\nport=127.0.0.1:{free_port()}\nusername=me\npassword=secret\n"
    conf = lame(server, extra='environment=SUPERVISOR_USERNAME="me",SUPERVISOR_PASSWORD="wrong"')
    with Lame(conf=conf, listen=None) as site:
        wait_for(lambda: "refused the user name or password" in said(site), 30, "the refusal")


def test_credentials_in_the_environment_work() -> None:
    port = free_port()
    sections = f"[inet_http_server]\nport=127.0.0.1:{port}\nusername=me\npassword=secret\n"
    environment = f'environment=SUPERVISOR_SERVER_URL="http://127.0.0.1:{port}",SUPERVISOR_USERNAME="me",'
    environment += 'SUPERVISOR_PASSWORD="secret"'
    with Supervisord(Program(numprocs=1), sections=sections, listener_extra=environment) as site:
        site.wait_pinned()
        wrong = site.cli("check", "-s", f"http://127.0.0.1:{port}", "-u", "me", "-p", "wrong")
        assert (wrong.returncode, wrong.stdout) == (2, "")
        assert "HTTP 401" in wrong.stderr
        right = site.cli("check", "-s", f"http://127.0.0.1:{port}", "-u", "me", "-p", "secret")
        assert right.returncode == 0, right.stderr


def test_typed_by_hand_it_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [interpreter.python(), "-m", "supervisor_uvicorn", "listen"],
        env=interpreter.environment(tmp_path), cwd="/", capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert "[eventlistener:uvicorn-health]" in done.stderr
    assert "supervisor-uvicorn check" in done.stderr


def events_of(*serials: int) -> bytes:
    head = "pool:x poolserial:1 len:15 eventname:TICK_5 serial:{} server:a b:c ver:3.0\nwhen:1201063880"
    return "".join(head.format(serial) for serial in serials).encode()


@pytest.mark.parametrize(
    ("stdin", "answers"),
    [
        (b"", 0),
        (events_of(1)[:-3], 0),
        (events_of(1, 1, 2), 3),
        (b"garbage\n" + events_of(7) + b"eventname:NO_SUCH len:0\n" + b"\xff\xfe\x00", 2),
        ("eventname:PROCESS_COMMUNICATION len:3\näöü".encode() + events_of(8), 2),
    ],
)
def test_whatever_comes_in_the_end_of_input_is_exit_0(stdin: bytes, answers: int) -> None:
    with Supervisord(Program(numprocs=1), listen=None) as site:
        environment = {**site.environment, "SUPERVISOR_ENABLED": "1", "SUPERVISOR_SERVER_URL": site.server_url}
        done = subprocess.run(
            [interpreter.python(), "-m", "supervisor_uvicorn", "listen"],
            input=stdin, env=environment, cwd=site.scratch, capture_output=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout == b"READY\n" + b"RESULT 2\nOKREADY\n" * answers
        assert b"Traceback" not in done.stderr


def stdout_pipe(pid: int) -> Path:
    """The protocol's pipe: the one that neither stdin nor stderr is (fd 1 itself has been pointed at stderr)."""
    links = {int(fd.name): os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    others = {links[0], links[1], links[2]}
    flags = {
        fd: int(Path(f"/proc/{pid}/fdinfo/{fd}").read_text().split("flags:")[1].split()[0], 8) & os.O_ACCMODE
        for fd, link in links.items()
        if link.startswith("pipe:") and link not in others
    }
    (fd,) = [fd for fd, mode in flags.items() if mode == os.O_WRONLY]
    return Path(f"/proc/{pid}/fd/{fd}")


@pytest.mark.acceptance
def test_a_listener_that_was_given_up_leaves_and_is_started_anew() -> None:
    with Supervisord(Program(numprocs=1), tick_s=5) as site:
        site.wait_pinned()
        pid = site.listener_pid()
        stays_true(lambda: site.listener_pid() == pid, 7, "the listener, for the first TICK to tell it the period")
        with stdout_pipe(pid).open("wb", buffering=0) as pipe:
            pipe.write(b"stray")
        wait_for(lambda: site.listener_pid() not in (0, pid), 60, "a new listener")
        assert any("given" in str(entry.get("message")) for entry in site.events("error"))
        wait_for(lambda: len(site.events("pinned")) >= 2, 30, "the new one to pin")


@pytest.mark.acceptance
def test_a_supervisord_that_is_stopped_for_a_while_has_not_given_it_up() -> None:
    with Supervisord(Program(numprocs=1), tick_s=5) as site:
        site.wait_pinned()
        pid, before = site.listener_pid(), site.pids()
        assert site.process is not None
        site.process.send_signal(signal.SIGSTOP)
        stays_true(lambda: processes.alive(pid), 20, "the listener, while supervisord is stopped")
        site.process.send_signal(signal.SIGCONT)
        stays_true(lambda: site.listener_pid() == pid, 10, "the listener, after supervisord goes on")
        assert site.pids() == before
        assert site.events("restart") == []


def test_a_second_listener_stands_by_and_takes_over() -> None:
    second = Supervisord.listener_section("second", "", Path("{scratch}/second.log"))
    program = Program(numprocs=1)
    with Supervisord(program, sections=second.replace("priority=-10", "priority=-9")) as site:
        logs = {site.listener: site.log_path, "second": site.scratch / "second.log"}

        def standing_by() -> str:
            return next((name for name, path in logs.items() if path.exists() and "stands by" in path.read_text()), "")

        waiting = wait_for(standing_by, 30, "one to stand by")
        (acting,) = set(logs) - {waiting}
        wait_for(lambda: '"pinned"' in logs[acting].read_text(), 30, "the other one to act")
        assert '"pinned"' not in logs[waiting].read_text()
        acts: Callable[[], bool] = lambda: "acts from now on" in logs[waiting].read_text()  # noqa: E731
        site.rpc.stopProcess(acting)
        wait_for(acts, 30, "the second to take over")
        wait_for(lambda: '"pinned"' in logs[waiting].read_text(), 30, "the second to pin")
