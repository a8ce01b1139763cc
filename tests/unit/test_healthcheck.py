"""``healthcheck``: one line, 0 or 1, whatever it is given and whoever answers."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, dumps

import pytest
import verbs_desk
from harness.interpreter import ROOT
from hypothesis import given
from hypothesis import strategies as st

from supervisor_uvicorn.cli import add_supervisord, main, parser
from supervisor_uvicorn.supervisord.board import Note
from supervisor_uvicorn.supervisord.quick import Unclear, read_board
from supervisor_uvicorn.verbs import healthcheck
from supervisor_uvicorn.verbs.healthcheck import Least, least, weigh

Answer = Callable[[socket.socket], None]
COMMAND = [sys.executable, "-m", "supervisor_uvicorn", "healthcheck"]


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("SUPERVISOR_")}
    env["PYTHONPATH"] = str(ROOT)
    return subprocess.run([*COMMAND, *words], env=env, capture_output=True, text=True, timeout=60, **options)


def the_line(done: subprocess.CompletedProcess[str], code: int = 1) -> str:
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stderr == ""
    assert done.stdout.endswith("\n")
    assert done.stdout.count("\n") == 1
    assert len(done.stdout.encode()) < 4096
    return done.stdout


# -- supervisords that are played


@contextlib.contextmanager
def supervisord(answer: Answer) -> Iterator[str]:
    """A unix socket on which each connection is answered by ``answer``; its URL. The request is read before."""
    with tempfile.TemporaryDirectory(prefix="su-") as directory, socket.socket(socket.AF_UNIX) as listener:
        path = f"{directory}/s"
        listener.bind(path)
        listener.listen()
        listener.settimeout(0.1)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                with contextlib.suppress(OSError):  # also the time-out of an accept
                    connection, _ = listener.accept()
                    with connection:
                        connection.settimeout(20)
                        _read_request(connection)
                        answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"unix://{path}"
        finally:
            over.set()
            thread.join()


def _read_request(connection: socket.socket) -> bytes:
    """Whole: what is left unread when it is closed would be a reset, and no end."""
    request = b""
    while True:
        head, _, body = request.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if length and len(body) >= int(length):
            return request
        part = connection.recv(64 * 1024)
        if not part:
            return request
        request += part


def http(body: bytes, status: str = "200 OK") -> Answer:
    head = f"HTTP/1.0 {status}\r\nServer: Medusa\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return lambda connection: connection.sendall(head + body)


def xml(value: Any) -> bytes:
    if isinstance(value, Fault):
        return dumps(value, methodresponse=True).encode()
    return dumps((value,), methodresponse=True).encode()


def board(page: dict[str, Any], age_s: float = 0.5) -> Answer:
    note = verbs_desk.note(page, age_s)
    return http(xml({"text": note.text, "age_s": note.age_s, "at": note.at}))


def silence(connection: socket.socket) -> None:
    connection.recv(1)  # until the other end gives up


def drip(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        for byte in b"HTTP/1.0 200 OK\r\n" + b"X: y\r\n" * 100:
            connection.sendall(bytes([byte]))
            time.sleep(0.1)


# -- how many


@pytest.mark.parametrize(
    ("text", "of_four", "of_five"),
    [
        ("1", 1, 1),
        ("3", 3, 3),
        ("9", 9, 9),
        ("50%", 2, 3),
        ("100%", 4, 5),
        ("1%", 1, 1),
        ("33.4%", 2, 2),
        ("20%", 1, 1),
    ],
)
def test_least(text: str, of_four: int, of_five: int) -> None:
    assert (least(text).of(4), least(text).of(5)) == (of_four, of_five)


@pytest.mark.parametrize(
    "text",
    ["0", "-1", "0%", "101%", "-5%", "", "%", "half", "0.5", "1.0", "nan%", "inf%", "1e3%", "50 percent", "50%%"],
)
def test_what_is_no_number_of_workers(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="write 1 or 50%"):
        least(text)


@given(st.integers(1, 100), st.integers(0, 500))
def test_a_share_is_rounded_up_and_never_none(percent: int, workers: int) -> None:
    assert Least(percent=percent).of(workers) == max(1, math.ceil(Fraction(percent * workers, 100)))


# -- the verdict


def four(*verdicts: str, **more: Any) -> dict[str, Any]:
    its = [verbs_desk.worker(f"web:web-{n}", 11 + n, verdict=verdict, **more) for n, verdict in enumerate(verdicts)]
    return verbs_desk.page(verbs_desk.program(workers=its))


def verdict(page: dict[str, Any], wanted: str) -> tuple[int, str]:
    try:
        return 0, weigh(page, least(wanted), "board")
    except healthcheck._Unhealthy as no:
        return 1, str(no)


@pytest.mark.parametrize(
    ("verdicts", "wanted", "code"),
    [
        (("healthy",) * 4, "100%", 0),
        (("healthy", "healthy", "healthy", "silent"), "100%", 1),
        (("healthy", "healthy", "healthy", "silent"), "75%", 0),
        (("healthy", "healthy", "healthy", "silent"), "76%", 1),
        (("healthy", "failing", "silent", "starting"), "1", 0),
        (("healthy", "failing", "silent", "starting"), "2", 1),
        (("starting", "unknown", "stopping", "silent"), "1", 1),
        (("healthy",), "2", 1),
        ((), "1", 1),
        ((), "1%", 1),
    ],
)
def test_verdicts(verdicts: tuple[str, ...], wanted: str, code: int) -> None:
    assert verdict(four(*verdicts), wanted)[0] == code


def test_stopped_workers_do_not_count() -> None:
    its = [verbs_desk.worker(), verbs_desk.worker("web:web-1", None, state="STOPPED", verdict="unknown")]
    assert verdict(verbs_desk.page(verbs_desk.program(workers=its)), "100%")[0] == 0


def test_several_programs_count_together() -> None:
    sick = [verbs_desk.worker("api:api-0", verdict="silent"), verbs_desk.worker("api:api-1", verdict="silent")]
    page = verbs_desk.page(verbs_desk.program(), verbs_desk.program("api", sick))
    assert verdict(page, "50%")[0] == 0
    assert verdict(page, "51%")[0] == 1


def test_the_line_says_who_and_why() -> None:
    its = [
        verbs_desk.worker(),
        verbs_desk.worker("web:web-1", verdict="silent", reason="no pulse read for 31 s"),
        verbs_desk.worker("web:web-2", None, state="FATAL", verdict="unknown"),
        verbs_desk.worker("web:web-3", watched=False, verdict="unknown", reason="a child serves"),
    ]
    assert verdict(verbs_desk.page(verbs_desk.program(workers=its)), "50%")[1] == (
        "unhealthy: 1 of 4 workers healthy, 2 needed (board): web:web-1 silent (no pulse read for 31 s); "
        "web:web-2 FATAL, unknown; web:web-3 not watched (a child serves)"
    )


# -- from the board


@pytest.mark.parametrize(("wanted", "code"), [([], 0), (["--min-healthy", "50%"], 0), (["--min-healthy=100%"], 1)])
def test_from_the_board(wanted: list[str], code: int) -> None:
    with supervisord(board(four("healthy", "healthy", "healthy", "silent"))) as url:
        line = the_line(run("-s", url, *wanted), code)
    assert line.startswith("unhealthy: 3 of 4" if code else "healthy: 3 of 4")


def test_it_is_found_by_the_environment(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    with supervisord(board(four("healthy"))) as url:
        monkeypatch.setenv("SUPERVISOR_SERVER_URL", url)
        assert main(["healthcheck"]) == 0
    assert capfd.readouterr().out == "healthy: 1 of 1 workers healthy, 1 needed (the listener's board, 0 s old)\n"


def test_whatever_a_worker_says_it_is_one_short_line() -> None:
    its = [
        verbs_desk.worker(f"web:w\u00f6b-{n}\n", verdict="failing", reason="\U0001f4a5\r\n\x1b[2J\udcff" * 9)
        for n in range(256)
    ]
    with supervisord(board(verbs_desk.page(verbs_desk.program(workers=its)))) as url:
        line = the_line(run("-s", url))
    assert line.startswith("unhealthy: 0 of 256 workers healthy")
    assert "\x1b" not in line
    assert line.endswith(" ...\n")


# -- whatever goes wrong


@pytest.mark.parametrize(
    "words",
    [
        ["--min-healthy"],
        ["--min-healthy", "0"],
        ["--min-healthy", "many"],
        ["--min", "1"],
        ["--nonsense"],
        ["web"],
        ["-s"],
        ["--min-healthy", "x" * 10000],
        ["-s", ""],
        ["-s", "ftp://localhost"],
        ["-s", "http://localhost:port"],
        ["-s", "http://127.0.0.1:1"],
        ["-s", "unix://"],
        ["-s", "unix:///nonexistent/supervisor.sock"],
        ["-s", "unix:///" + "x" * 300],
        ["-c", "/nonexistent/supervisord.conf"],
        ["-c", os.devnull],
    ],
)
def test_wrong_use_and_no_supervisord_are_1_and_one_line(words: list[str], tmp_path: Path) -> None:
    line = the_line(run(*words, cwd=tmp_path))
    assert line.startswith("unhealthy: ")
    assert "Traceback" not in line
    assert "itself failed" not in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pasword=SECRET"], "unknown options: --pasword;"),
        (["-p", "a", "SECRET"], "words that belong to no option: 1;"),
        (["-xSECRET", "SECRET", "SECRET"], "unknown options: -x; and words that belong to no option: 2;"),
        (["--help=SECRET"], "it takes no value;"),
        (["-s", "ftp://user:SECRET@localhost"], "'ftp://localhost' is not a server URL"),
        (["-s", "http://user:SECRET@localhost:port"], "'http://localhost:port' is not a server URL"),
        (["-s", "http://user:SEC/SECRET@127.0.0.1:1"], "http://127.0.0.1:1: nobody listens there"),
        (["-s", "http://user:SECRET@a..b:1"], "http://a..b:1: "),
    ],
)
def test_no_password_is_printed(words: list[str], said: str, tmp_path: Path) -> None:
    line = the_line(run(*words, cwd=tmp_path))
    assert said in line
    assert "SEC" not in line
    assert "itself failed" not in line


def test_no_password_is_printed_of_a_supervisord_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, by its backlog, and says nothing
        where = f"127.0.0.1:{server.getsockname()[1]}"
        line = the_line(run("-s", f"http://user:SECRET@{where}"))
    assert f"http://{where} did not answer" in line
    assert "SECRET" not in line


def test_a_password_that_is_no_utf8(tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("SUPERVISOR_")}
    env["PYTHONPATH"] = str(ROOT)
    words = [*map(os.fsencode, COMMAND), b"-s", b"unix:///nonexistent/supervisor.sock", b"-u", b"user", b"-p", b"\xe4"]
    done = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, b"")
    assert b"there is no such socket" in done.stdout
    assert b"itself failed" not in done.stdout


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http(b"", "401 Unauthorized"), "user name and password are missing or wrong"),
        (http(b"", "500 Internal Server Error"), "HTTP 500"),
        (http(b"no xml"), "not XML-RPC"),
        (http(xml(Fault(6, "SHUTDOWN_STATE"))), "shutting down"),
        (http(xml("a text")), "is no struct"),
        (lambda connection: connection.sendall(b"garbage\r\n\r\n"), "did not answer"),
        (lambda connection: None, "closed the connection"),
    ],
)
def test_a_peer_that_is_no_supervisord(answer: Answer, said: str) -> None:
    with supervisord(answer) as url:
        line = the_line(run("-s", url))
    assert said in line


@pytest.mark.parametrize("answer", [silence, drip])
def test_it_ends_within_3_s_when_nobody_answers(answer: Answer) -> None:
    with supervisord(answer) as url:
        began = time.monotonic()
        line = the_line(run("-s", url))
        took_s = time.monotonic() - began
    assert "did not answer within 2 s" in line
    assert took_s < 3.0


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2],
)
def test_a_signal_is_1_and_one_line(number: signal.Signals) -> None:
    asked = threading.Event()

    def say(connection: socket.socket) -> None:
        asked.set()
        silence(connection)

    with supervisord(say) as url:
        process = subprocess.Popen([*COMMAND, "-s", url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert asked.wait(30)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err == ""
    assert out == f"unhealthy: ended by {number.name} before there was an answer\n"


def test_nobody_reads_its_line() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with supervisord(board(four("healthy"))) as url:
            done = subprocess.run([*COMMAND, "-s", url], stdout=writer, stderr=subprocess.PIPE, timeout=60)
            closed = subprocess.run(
                ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "-s", url], stderr=subprocess.PIPE, timeout=60
            )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (closed.returncode, closed.stderr) == (0, b"")


def test_an_error_of_ours_is_no_third_answer(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> str:
        raise ZeroDivisionError("by\nnothing")

    monkeypatch.setattr(healthcheck, "answer", broken)
    assert main(["healthcheck"]) == 1
    assert capfd.readouterr().out == "unhealthy: healthcheck itself failed: ZeroDivisionError: by nothing\n"
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_the_limit_for_everything(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(healthcheck, "LIMIT_S", 0.1)
    monkeypatch.setattr(healthcheck, "answer", lambda *_: time.sleep(30))
    assert main(["healthcheck"]) == 1
    assert capfd.readouterr().out.startswith("unhealthy: no answer within 0.1 s")


# -- where it looks by itself


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (http(xml(Fault(1, "UNKNOWN_METHOD"))), "there is no [rpcinterface:uvicorn]"),
        (http(xml({"text": "", "age_s": -1.0, "at": 0.0})), "no listener has reported yet"),
        (http(xml({"text": "[]", "age_s": 1.0, "at": 1.0})), "what is on the board is no page"),
        (board(four("silent"), 15.1), "the listener's board is 15 s old"),
    ],
)
def test_without_a_fresh_board_it_looks_by_itself(
    answer: Answer, why: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    looked: list[argparse.Namespace] = []

    def look(args: argparse.Namespace) -> dict[str, Any]:
        looked.append(args)
        return four("healthy", "healthy")

    monkeypatch.setattr(healthcheck, "_look", look)
    with supervisord(answer) as url:
        assert main(["healthcheck", "-s", url]) == 0
    assert len(looked) == 1
    assert f"2 of 2 workers healthy, 1 needed (a look of its own: {why}" in capfd.readouterr().out


def test_what_check_cannot_is_a_line_too(capfd: pytest.CaptureFixture[str]) -> None:
    """Played: the board says UNKNOWN_METHOD, and so does everything that check asks."""
    with supervisord(http(xml(Fault(1, "UNKNOWN_METHOD")))) as url:
        assert main(["healthcheck", "-s", url, "-u", "user", "--password=-word"]) == 1
    out = capfd.readouterr()
    assert out.out.startswith("unhealthy: cannot look: supervisord's RPC server does not know supervisor's own methods")
    assert out.err == ""


# -- the board without http.client


@pytest.mark.parametrize("text", ["{}", "ä <&> ]]> \U0001f600\n", "x" * 200_000, "  spaces  ", "<name>at</name>"])
def test_the_quick_way_reads_what_the_long_way_reads(text: str) -> None:
    with supervisord(http(xml({"text": text, "age_s": 1.5, "at": 12.0}))) as url:
        assert read_board(url) == Note(text, 1.5, 12.0)


@pytest.mark.parametrize(
    "body", [b"", b"<a>", xml({"text": "x"}), xml({"text": "x", "age_s": "soon", "at": 1.0}), xml([])]
)
def test_what_is_not_understood_is_asked_again(body: bytes) -> None:
    with supervisord(http(body)) as url, pytest.raises(Unclear):
        read_board(url)


def test_user_and_password() -> None:
    heads: list[bytes] = []
    with tempfile.TemporaryDirectory(prefix="su-") as directory, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{directory}/s")
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                heads.append(connection.recv(64 * 1024))
                http(xml({"text": "t", "age_s": 1.0, "at": 1.0}))(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        read_board(f"unix://{directory}/s", "us\u00e9r", "p:w\udce4")
        thread.join()
    assert b"Authorization: Basic dXPDqXI6cDp35A==\r\n" in heads[0]


def test_it_imports_neither_http_client_nor_argparse_of_other_verbs() -> None:
    """Memory and start-up time (its module's head) hang on this."""
    with supervisord(board(four("healthy"))) as url:
        code = (
            "import sys; from supervisor_uvicorn.cli import main; main(['healthcheck', '-s', sys.argv[1]]); "
            "print(*sorted({'http.client', 'ssl', 'email', 'xmlrpc.client', 'requests', 'supervisor', 'subprocess', "
            "'threading', 'logging', 'supervisor_uvicorn.settings'} & sys.modules.keys()))"
        )
        done = subprocess.run([sys.executable, "-c", code, url], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[1:] == [""], done.stdout + done.stderr


def test_it_stands_in_the_help_of_all_verbs_with_its_options() -> None:
    args = parser().parse_args(["healthcheck", "--min-healthy", "50%", "-s", "unix:///run/supervisor.sock"])
    assert args.min_healthy == Least(percent=50)
    own = argparse.ArgumentParser()
    healthcheck.add_arguments(own)
    add_supervisord(own)
    assert "50%" not in own.format_help()
    assert "--min-healthy N or P%" in own.format_help()
    done = run("--help")
    assert done.returncode == 0
    assert "--min-healthy" in done.stdout
