"""The XML-RPC client, against real supervisords and against peers that do everything wrong."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
import xmlrpc.client
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor_uvicorn.model import State
from supervisor_uvicorn.supervisord import calls as calls_module
from supervisor_uvicorn.supervisord import rpc as rpc_module
from supervisor_uvicorn.supervisord.calls import ProcessConfig, ProcessInfo, Supervisord
from supervisor_uvicorn.supervisord.preflight import explain_absence, explain_failure
from supervisor_uvicorn.supervisord.rpc import (
    BadAnswer,
    Fault,
    InDoubt,
    Rpc,
    RpcError,
    Unauthorized,
    Unreachable,
)

DEADLINE_S = 30.0  # of a test's own waits; generous, for a machine that is busy with something else

RPCINTERFACE = """
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""


def until(what: str, predicate: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not predicate():
        assert time.monotonic() < end, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def supervisord(home: Path, conf: str, python: str = sys.executable) -> Iterator[subprocess.Popen[bytes]]:
    """A real supervisord on ``conf``, in the foreground; ended, and waited for, at the end."""
    (home / "supervisord.conf").write_text(
        f"[supervisord]\nnodaemon=true\nlogfile={home}/log\npidfile={home}/pid\nchildlogdir={home}\n{conf}"
    )
    command = [python, "-m", "supervisor.supervisord", "-c", str(home / "supervisord.conf")]
    with open(home / "out", "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=home)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(rpc: Rpc) -> None:
    def answers() -> bool:
        try:
            rpc.call("system.listMethods", idempotent=True)
        except Unreachable:
            return False
        except RpcError:
            return True
        return True

    until("supervisord answers", answers)


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path: a unix socket's may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="sv") as name:
        yield Path(name)


def pythons() -> list[str]:
    """Ours, and those of other supervisor versions: SUPERVISOR_PYTHONS, paths separated by colons."""
    return [sys.executable, *filter(None, os.environ.get("SUPERVISOR_PYTHONS", "").split(":"))]


# -- real supervisords

PROGRAMS = """
[program:sleeper]
command=sleep 1000
process_name=%(program_name)s-%(process_num)d
numprocs=2
stopwaitsecs=7
startsecs=0
stdout_logfile=NONE
killasgroup=true
stopasgroup=true

[program:broken]
command=/nowhere/at/all
autostart=false
"""


@pytest.mark.parametrize("python", pythons())
@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_every_call_on_a_real_supervisord(home: Path, kind: str, python: str) -> None:
    port = free_port()
    url = f"unix://{home}/s" if kind == "unix" else f"http://127.0.0.1:{port}"
    server = (
        f"[unix_http_server]\nfile={home}/s\n" if kind == "unix" else f"[inet_http_server]\nport=127.0.0.1:{port}\n"
    )
    with supervisord(home, server + RPCINTERFACE + PROGRAMS, python) as process, Rpc(url) as rpc:
        wait_for(rpc)
        calls = Supervisord(rpc)
        assert calls.state() == "RUNNING"
        assert calls.pid() == process.pid
        until("both run", lambda: [one.state for one in calls.processes()].count(State.RUNNING) == 2)
        names = [one.name for one in calls.processes()]
        assert names == ["broken:broken", "sleeper:sleeper-0", "sleeper:sleeper-1"]

        before = calls.process("sleeper:sleeper-0")
        assert before.pid > 0
        assert before.start <= before.now
        assert Path(before.stderr_logfile).parent == home
        assert before.stdout_logfile == ""
        calls.signal("sleeper:sleeper-0", "KILL")
        until("a new pid", lambda: calls.process(before.name).pid not in (0, before.pid))

        configs = calls.configs()
        assert configs["sleeper:sleeper-1"] == ProcessConfig(
            name="sleeper:sleeper-1",
            command="sleep 1000",
            stopwaitsecs=7,
            startsecs=0,
            killasgroup=True,
            stderr_logfile=configs["sleeper:sleeper-1"].stderr_logfile,
            autorestart=configs["sleeper:sleeper-1"].autorestart,  # 4.3 does not tell
        )

        assert Path(configs["sleeper:sleeper-1"].stderr_logfile).parent == home

        with pytest.raises(Fault) as caught:
            calls.start("broken:broken")
        assert caught.value.code == rpc_module.NO_FILE
        with pytest.raises(Fault) as caught:
            calls.process("no:body")
        assert caught.value.code == rpc_module.BAD_NAME
        with pytest.raises(Fault) as caught:
            calls.signal("broken:broken", "TERM")
        assert caught.value.code == rpc_module.NOT_RUNNING
        assert not caught.value.in_doubt
        calls.send_remote_comm("supervisor-uvicorn", "päuse \udcff")  # a lone surrogate becomes "?"


def test_the_kept_connection_is_used_again_and_a_dead_one_replaced(home: Path) -> None:
    conf = f"[unix_http_server]\nfile={home}/s\n{RPCINTERFACE}"
    with Rpc(f"unix://{home}/s") as rpc:
        with supervisord(home, conf) as first:
            wait_for(rpc)
            calls = Supervisord(rpc)
            assert calls.pid() == first.pid
            kept = rpc._connection
            assert kept is not None
            assert calls.pid() == first.pid
            assert rpc._connection is kept
        with supervisord(home, conf) as second:
            wait_for(rpc)
            assert calls.pid() == second.pid
        with pytest.raises(Unreachable):
            calls.pid()


def test_a_401_says_where_the_credentials_belong(home: Path) -> None:
    conf = f"[unix_http_server]\nfile={home}/s\nusername=me\npassword=se:crét\n{RPCINTERFACE}"
    url = f"unix://{home}/s"
    with supervisord(home, conf):
        with Rpc(url) as nobody:
            wait_for(nobody)
            with pytest.raises(Unauthorized) as caught:
                Supervisord(nobody).state()
            assert 'environment=SUPERVISOR_USERNAME="...",SUPERVISOR_PASSWORD="..."' in explain_failure(caught.value)
            assert "never hands its own credentials" in str(caught.value)
        with Rpc(url, "me", "wrong") as wrong, pytest.raises(Unauthorized, match="refused the user name"):
            Supervisord(wrong).state()
        env = {"SUPERVISOR_SERVER_URL": url, "SUPERVISOR_USERNAME": "me", "SUPERVISOR_PASSWORD": "se:crét"}
        with Rpc.from_environment(env) as right:
            assert Supervisord(right).state() == "RUNNING"


def test_without_the_rpcinterface_the_section_is_named(home: Path) -> None:
    with supervisord(home, f"[unix_http_server]\nfile={home}/s\n"), Rpc(f"unix://{home}/s") as rpc:
        wait_for(rpc)
        with pytest.raises(Fault) as caught:
            Supervisord(rpc).state()
        assert caught.value.code == rpc_module.UNKNOWN_METHOD
        assert RPCINTERFACE.strip() in explain_failure(caught.value)


def test_a_stopped_supervisord_costs_one_deadline_and_the_client_recovers(home: Path) -> None:
    conf = f"[unix_http_server]\nfile={home}/s\n{RPCINTERFACE}"
    with supervisord(home, conf) as process, Rpc(f"unix://{home}/s", deadline_s=0.5) as rpc:
        wait_for(rpc)
        calls = Supervisord(rpc)
        process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(InDoubt, match="in time") as caught:
                calls.pid()
            assert 0.4 < time.monotonic() - began < 3
            assert caught.value.in_doubt
        finally:
            process.send_signal(signal.SIGCONT)
        rpc.deadline_s = DEADLINE_S
        assert calls.pid() == process.pid


# -- what is kept of an answer


def test_what_is_kept_of_an_answer_is_what_is_read() -> None:
    """A member that is read and not kept would always have its default."""

    class Asked(dict[str, object]):
        def get(self, name: str, otherwise: object = None) -> object:  # type: ignore[override]
            self[name] = otherwise
            return otherwise

    process, config = Asked(), Asked()
    calls_module._process(process)
    calls_module._config(config)
    assert set(process) == calls_module._OF_A_PROCESS
    assert set(config) == calls_module._OF_A_CONFIG


def test_only_some_members_are_kept() -> None:
    answer = xmlrpc.client.dumps(([{"a": 1, "b": [{"a": 2, "c": 3}]}, {"c": 4}],), methodresponse=True).encode()

    def serve(peer: socket.socket) -> None:
        for _ in range(2):
            read_request(peer)
            peer.sendall(http(answer))

    with Peer(serve) as server, Rpc(server.url, deadline_s=DEADLINE_S) as rpc:
        assert rpc.call("x", only=frozenset({"a", "b"})) == [{"a": 1, "b": [{"a": 2}]}, {}]
        assert rpc.call("x") == [{"a": 1, "b": [{"a": 2, "c": 3}]}, {"c": 4}]


def test_a_fault_is_one_whatever_is_kept() -> None:
    fault = xmlrpc.client.dumps(xmlrpc.client.Fault(10, "BAD_NAME"), methodresponse=True).encode()

    def serve(peer: socket.socket) -> None:
        read_request(peer)
        peer.sendall(http(fault))

    with Peer(serve) as server, Rpc(server.url, deadline_s=DEADLINE_S) as rpc:
        with pytest.raises(Fault) as caught:
            rpc.call("x", only=frozenset({"name"}))
        assert caught.value.code == 10


def test_an_answer_is_let_go_of_without_the_garbage_collector() -> None:
    answer = rpc_module._Answer("x", frozenset({"a"}))
    answer.feed(xmlrpc.client.dumps(([{"a": 1, "b": 2}],), methodresponse=True).encode())
    assert answer.result() == [{"a": 1}]
    reader = weakref.ref(answer._reader)
    gc.disable()
    try:
        del answer
        assert reader() is None
    finally:
        gc.enable()


# -- peers that do everything wrong

RIGHT = xmlrpc.client.dumps((42,), methodresponse=True).encode()


def http(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def read_request(peer: socket.socket) -> bytes:
    """One whole request, or b"" at the end of input."""
    data = b""
    while b"</methodCall>" not in data:
        part = peer.recv(65536)
        if not part:
            return b""
        data += part
    return data


class Peer:
    """A server whose every connection is given to the next of ``handlers``, in a thread of its own."""

    def __init__(self, *handlers: Callable[[socket.socket], object]) -> None:
        self._handlers = list(handlers)
        self._server = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run)
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.accepted = 0
        self.over = threading.Event()

    def _run(self) -> None:
        while self._handlers:
            peer, _ = self._server.accept()
            if self.over.is_set():
                peer.close()
                return
            self.accepted += 1
            peer.settimeout(DEADLINE_S)
            with peer, contextlib.suppress(OSError):
                self._handlers.pop(0)(peer)

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        with contextlib.suppress(OSError):
            socket.create_connection(self._server.getsockname(), timeout=1).close()  # wake an accept
        self._thread.join(DEADLINE_S)
        self._server.close()
        assert not self._thread.is_alive()


def answering(answer: bytes) -> Callable[[socket.socket], None]:
    def handle(peer: socket.socket) -> None:
        read_request(peer)
        peer.sendall(answer)

    return handle


def serve(peer: socket.socket) -> None:
    while read_request(peer):
        peer.sendall(http(RIGHT))


@pytest.mark.parametrize("head_too", [False, True])
def test_a_peer_that_drips_is_cut_off_at_the_deadline(head_too: bool) -> None:
    def drip(peer: socket.socket) -> None:
        read_request(peer)
        answer = http(RIGHT)
        if not head_too:
            head, _, answer = answer.partition(b"\r\n\r\n")
            peer.sendall(head + b"\r\n\r\n")
        for byte in answer:
            if server.over.wait(0.1):
                return
            peer.sendall(bytes([byte]))

    with Peer(drip) as server, Rpc(server.url, deadline_s=0.5) as rpc:
        began = time.monotonic()
        with pytest.raises(InDoubt):
            rpc.call("x.y")
        assert 0.4 < time.monotonic() - began < 3


def test_a_peer_that_reads_nothing_is_cut_off_while_we_send() -> None:
    with Peer(lambda _peer: server.over.wait(DEADLINE_S)) as server, Rpc(server.url, deadline_s=0.5) as rpc:
        began = time.monotonic()
        with pytest.raises(InDoubt):
            rpc.call("x.y", "a" * 30_000_000)
        assert time.monotonic() - began < 5


def test_after_a_timeout_the_late_answer_is_not_taken_for_the_next_one() -> None:
    late = xmlrpc.client.dumps(("late",), methodresponse=True).encode()
    gave_up = threading.Event()

    def too_late(peer: socket.socket) -> None:
        read_request(peer)
        gave_up.wait(DEADLINE_S)
        peer.sendall(http(late))

    with Peer(too_late, serve) as server, Rpc(server.url, deadline_s=0.3) as rpc:
        with pytest.raises(InDoubt):
            rpc.call("x.y")
        gave_up.set()
        assert rpc.call("x.y", deadline_s=DEADLINE_S) == 42


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", InDoubt),  # closed without a word
        (http(RIGHT)[:30], InDoubt),  # cut in the head
        (http(RIGHT)[:-10], InDoubt),  # cut in the body
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n<?xml", InDoubt),
        (b"garbage\r\n\r\n", BadAnswer),
        (b"\x00" * 70_000, BadAnswer),
        (http(b"garbage"), BadAnswer),
        (http(b""), BadAnswer),
        (http(b"<?xml version='1.0'?><methodResponse></methodResponse>"), BadAnswer),
        (http(b"<methodResponse><fault><value><int>3</int></value></fault></methodResponse>"), BadAnswer),
        (http(xmlrpc.client.dumps((1,), "a.call").encode()), BadAnswer),
        (http(xmlrpc.client.dumps((xmlrpc.client.Fault("x", "y"),)[0]).encode()), BadAnswer),  # type: ignore[arg-type]
        (
            http(b"<methodResponse><params><param><value><int>x</int></value></param></params></methodResponse>"),
            BadAnswer,
        ),
        (http(b"oops", "500 Internal Server Error"), BadAnswer),
        (http(b"", "302 Found", "Location: /x\r\n"), BadAnswer),
        (http(b"", "401 Unauthorized"), Unauthorized),
        (http(xmlrpc.client.dumps(xmlrpc.client.Fault(70, "NOT_RUNNING")).encode()), Fault),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", BadAnswer),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", InDoubt),
    ],
)
def test_a_wrong_answer_is_an_error_of_its_kind_and_the_next_call_is_well(answer: bytes, kind: type) -> None:
    with Peer(answering(answer), serve) as server, Rpc(server.url, deadline_s=DEADLINE_S) as rpc:
        with pytest.raises(RpcError) as caught:
            rpc.call("x.y", idempotent=True)
        assert type(caught.value) is kind
        assert caught.value.in_doubt == (kind in (InDoubt, BadAnswer))
        assert rpc.call("x.y") == 42


def test_an_endless_answer_is_cut_at_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_module, "MAX_ANSWER_BYTES", 200_000)

    def endless(peer: socket.socket) -> None:
        read_request(peer)
        peer.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while not server.over.is_set():
            peer.sendall(b"x" * 10_000)

    with Peer(endless) as server, Rpc(server.url, deadline_s=DEADLINE_S) as rpc:
        with pytest.raises(BadAnswer, match="more than 200000 bytes"):
            rpc.call("x.y")
        assert rpc._connection is None


def test_a_connection_closed_while_idle_is_replaced_before_anything_is_sent() -> None:
    """So that even a signal, which is never sent twice, does not fail for it."""
    seen: list[bytes] = []

    def once(peer: socket.socket) -> None:
        seen.append(read_request(peer))
        peer.sendall(http(RIGHT))

    with Peer(once, once) as server, Rpc(server.url, deadline_s=DEADLINE_S) as rpc:
        assert rpc.call("a.signal") == 42
        connection = rpc._connection
        assert connection is not None
        until("the peer has closed", lambda: rpc_module._readable(connection.timed))
        assert rpc.call("b.signal") == 42
    assert [b"a.signal" in seen[0], b"b.signal" in seen[1]] == [True, True]


@pytest.mark.parametrize("idempotent", [True, False])
def test_only_what_may_be_done_twice_is_sent_twice(idempotent: bool) -> None:
    """The peer reads the second request on the kept connection, then closes without a byte."""
    seen: list[bytes] = []

    def closes_on_the_second(peer: socket.socket) -> None:
        seen.append(read_request(peer))
        peer.sendall(http(RIGHT))
        seen.append(read_request(peer))

    def well(peer: socket.socket) -> None:
        seen.append(read_request(peer))
        peer.sendall(http(RIGHT))

    with Peer(closes_on_the_second, well) as server, Rpc(server.url, deadline_s=DEADLINE_S) as rpc:
        rpc.call("a.b")
        if idempotent:
            assert rpc.call("a.b", idempotent=True) == 42
            assert len(seen) == 3
        else:
            with pytest.raises(InDoubt):
                rpc.call("a.b")
            assert len(seen) == 2


def test_half_an_answer_on_a_kept_connection_is_not_asked_for_again() -> None:
    def half(peer: socket.socket) -> None:
        read_request(peer)
        peer.sendall(http(RIGHT))
        read_request(peer)
        peer.sendall(http(RIGHT)[:5])

    with Peer(half, serve) as server, Rpc(server.url, deadline_s=DEADLINE_S) as rpc:
        rpc.call("a.b")
        with pytest.raises(RpcError) as caught:
            rpc.call("a.b", idempotent=True)
        assert caught.value.in_doubt
        assert server.accepted == 1


def test_no_credentials_no_authorization_header() -> None:
    seen: list[bytes] = []

    def once(peer: socket.socket) -> None:
        seen.append(read_request(peer))
        peer.sendall(http(RIGHT, headers="Connection: close\r\n"))

    with Peer(once, once) as server:
        with Rpc(server.url) as rpc:
            rpc.call("a.b")
        with Rpc(server.url, password="p") as rpc:
            rpc.call("a.b")
    assert b"authorization" not in seen[0].lower()
    assert b"Authorization: Basic OnA=\r\n" in seen[1]


def test_credentials_that_are_no_utf8_are_sent_as_their_bytes() -> None:
    seen: list[bytes] = []

    def once(peer: socket.socket) -> None:
        seen.append(read_request(peer))
        peer.sendall(http(RIGHT))

    with Peer(once) as server, Rpc(server.url, "us\u00e9r", "p:w\udce4") as rpc:
        rpc.call("a.b")
    assert b"Authorization: Basic dXPDqXI6cDp35A==\r\n" in seen[0]


@pytest.mark.parametrize("status", ["401 Unauthorized", "500 Internal Server Error", ""])
def test_no_message_repeats_the_password_of_a_url(status: str) -> None:
    def refuse(peer: socket.socket) -> None:
        read_request(peer)
        peer.sendall(http(b"", status) if status else b"")

    with Peer(refuse) as server, Rpc(server.url.replace("://", "://user:SECRET@")) as rpc:
        with pytest.raises(RpcError) as caught:
            rpc.call("a.b")
        assert rpc.server_url == server.url
    assert server.url in str(caught.value)
    assert "SECRET" not in str(caught.value)


# -- not even a peer


def test_what_cannot_be_reached_was_never_asked(home: Path) -> None:
    with pytest.raises(Unreachable, match="no such socket") as caught:
        Rpc(f"unix://{home}/nowhere").call("a.b")
    assert not caught.value.in_doubt
    with pytest.raises(Unreachable, match="nobody listens"):
        Rpc(f"http://127.0.0.1:{free_port()}").call("a.b")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{home}/dead")
        with pytest.raises(Unreachable, match="nobody listens"):
            Rpc(f"unix://{home}/dead").call("a.b")
    with pytest.raises(Unreachable):
        Rpc(f"unix://{home}/{'x' * 200}").call("a.b")


def test_a_socket_that_is_not_for_us_says_chmod(home: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{home}/s")
        server.listen()
        os.chmod(f"{home}/s", 0)
        if os.geteuid() == 0:
            # root may connect in spite of the mode, so ask as somebody else
            os.chmod(home, 0o755)
            code = f"""
import os; os.setgid(65534); os.setuid(65534)
from supervisor_uvicorn.supervisord.rpc import Rpc
Rpc("unix://{home}/s").call("a.b")
"""
            # imports first, as the checkout may not be readable to that user
            code = "import supervisor_uvicorn.supervisord.rpc\n" + code
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=os.getcwd())
            assert "Unreachable" in done.stderr
            assert "chmod=0770" in done.stderr
        else:
            with pytest.raises(Unreachable, match="chmod=0770"):
                Rpc(f"unix://{home}/s").call("a.b")


def test_a_full_backlog_is_waited_for_until_the_deadline(home: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{home}/s")
        server.listen(0)
        with socket.socket(socket.AF_UNIX) as first, Rpc(f"unix://{home}/s", deadline_s=0.4) as rpc:
            first.connect(f"{home}/s")
            began = time.monotonic()
            with pytest.raises(Unreachable, match="in time"):
                rpc.call("a.b")
            assert 0.3 < time.monotonic() - began < 3


@pytest.mark.parametrize("url", ["", "https://x:1", "unix://", "http://", "http://x:port", "/run/s.sock"])
def test_a_url_of_another_kind_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(RpcError, match="not a server URL"):
        Rpc(url)


def test_an_answer_of_another_shape_is_a_bad_answer() -> None:
    with Peer(serve) as server, Rpc(server.url, deadline_s=DEADLINE_S) as rpc:
        with pytest.raises(BadAnswer, match="shape"):
            Supervisord(rpc).processes()
        with pytest.raises(BadAnswer, match="shape"):
            Supervisord(rpc).process("a:b")


def test_missing_keys_are_tolerated() -> None:
    answer = xmlrpc.client.dumps(([{"name": "a", "state": 20}, {}],), methodresponse=True).encode()

    def twice(peer: socket.socket) -> None:
        while read_request(peer):
            peer.sendall(http(answer))

    with Peer(twice) as server, Rpc(server.url, deadline_s=DEADLINE_S) as rpc:
        calls = Supervisord(rpc)
        assert calls.processes() == [ProcessInfo("a:a", State.RUNNING), ProcessInfo(":", State.UNKNOWN)]
        assert calls.configs() == {"a:a": ProcessConfig("a:a"), ":": ProcessConfig(":")}


# -- preflight


def test_what_is_missing_around_us_is_said_with_its_section() -> None:
    by_hand = explain_absence({})
    assert by_hand
    assert "[eventlistener:uvicorn-health]\ncommand=" in by_hand
    no_server = explain_absence({"SUPERVISOR_ENABLED": "1"})
    assert no_server
    assert "[unix_http_server]\nfile=" in no_server
    assert explain_absence({"SUPERVISOR_ENABLED": "1", "SUPERVISOR_SERVER_URL": "unix:///s"}) is None
    with pytest.raises(RpcError, match="SUPERVISOR_SERVER_URL"):
        Rpc.from_environment({})
