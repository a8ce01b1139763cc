"""``[rpcinterface:uvicorn]`` in a real supervisord with real uvicorn workers, through its client ``Board``."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import client, processes
from harness.supervisord import Program, Supervisord, free_port
from harness.waiting import wait_for

from supervisor_uvicorn.supervisord.board import DIFFERS, MAX_TEXT_BYTES, Board, Note, SharedSocket
from supervisor_uvicorn.supervisord.calls import Supervisord as Calls
from supervisor_uvicorn.supervisord.rpc import FAILED, INCORRECT_PARAMETERS, NOT_RUNNING, Fault, Rpc, RpcError

SECTION = """
[rpcinterface:uvicorn]
supervisor.rpcinterface_factory = supervisor_uvicorn.plugin.rpcinterface:make_rpcinterface
"""
DEADLINE_S = 60.0


@contextlib.contextmanager
def supervisord(*programs: Program, sections: str = SECTION, **options: Any) -> Iterator[tuple[Supervisord, Board]]:
    """Programs and the plugin, without a listener; inside when every worker serves."""
    with Supervisord(*programs, listen=None, sections=sections, **options) as site, Rpc(site.server_url) as rpc:
        wait_serving(site)
        yield site, Board(rpc)


def wait_serving(site: Supervisord) -> dict[str, int]:
    pids = site.wait_running()
    wait_for(lambda: all(processes.serving(pid) for pid in pids.values()), DEADLINE_S, "every worker to serve")
    return pids


def signal_worker(board: Board, name: str, signal: str) -> int:
    """Signal the worker that is there now; its pid."""
    info = Calls(board.rpc).process(name)
    assert board.signal_worker(name, info.pid, info.start, signal)
    return info.pid


def shared(board: Board, group: str = "web") -> SharedSocket:
    (found,) = [one for one in board.sockets() or () if one.group == group]
    return found


def waiting_client(url: str) -> client.Connection:
    """A client that has sent its request and is in the backlog, if nobody accepts."""
    connection = client.Connection(url, timeout_s=DEADLINE_S)
    connection.send_only("/pid")
    return connection


def freeze(pid: int) -> None:
    """From here on it accepts nobody: a loop that hangs, at once and for certain."""
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: processes.state(pid) == "T", DEADLINE_S, f"{pid} to be stopped")


def answer(connection: client.Connection) -> str:
    """The status line that it got, or how it was lost."""
    assert connection.sock is not None
    try:
        return connection.sock.recv(12).decode() or "closed"
    except OSError as error:
        return type(error).__name__
    finally:
        connection.close()


# -- the socket


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_the_only_worker_is_killed_and_nobody_who_waits_is_lost(kind: str, figures: Callable[..., None]) -> None:
    with supervisord(Program(numprocs=1, socket=kind)) as (site, board):
        before = shared(board)
        freeze(site.pids()["web:web-0"])
        clients = [waiting_client(site.url()) for _ in range(20)]
        assert board.hold("web", 60.0)
        began = time.monotonic()
        old = signal_worker(board, "web:web-0", "KILL")
        clients += [waiting_client(site.url()) for _ in range(20)]  # who comes meanwhile is not refused
        answers = [answer(one) for one in clients]
        figures(kind=kind, clients=len(clients), all_answered_s=round(time.monotonic() - began, 2))
        assert answers == ["HTTP/1.1 200"] * 40
        assert site.pids()["web:web-0"] not in {0, old}
        assert board.release("web")
        after = shared(board)
        assert (after.refcount, after.held_s, after.prepared) == (1, 0.0, True)
        assert after.fd == before.fd


def test_without_a_hold_who_waits_is_lost() -> None:
    """The test above can fail: this is what it would see."""
    with supervisord(Program(numprocs=1)) as (site, board):
        freeze(site.pids()["web:web-0"])
        clients = [waiting_client(site.url()) for _ in range(20)]
        signal_worker(board, "web:web-0", "KILL")
        assert "HTTP/1.1 200" not in [answer(one) for one in clients]


def test_a_forked_helper_cannot_bring_supervisord_down_while_the_socket_is_held() -> None:
    with supervisord(Program(numprocs=1, socket="tcp")) as (site, board):
        site.tell("web:web-0", "/fork")
        assert board.hold("web", 60.0)
        old = signal_worker(board, "web:web-0", "KILL")
        wait_for(lambda: site.pids()["web:web-0"] not in {0, old}, DEADLINE_S, "a new worker")
        wait_serving(site)
        assert site.process is not None
        assert site.process.poll() is None


def test_a_stop_by_hand_ends_the_hold_and_clients_are_refused() -> None:
    with supervisord(Program(numprocs=2)) as (site, board):
        assert board.hold("web", 600.0)
        assert site.ctl("stop", "web:*").returncode == 0
        assert shared(board).prepared is False
        with pytest.raises(ConnectionRefusedError):
            client.ask(site.url(), "/pid")
        with pytest.raises(Fault) as refused:
            board.hold("web", 600.0)
        assert refused.value.code == FAILED
        site.ctl("start", "web:*")
        wait_serving(site)
        assert client.ask(site.url(), "/pid")[0] == 200


def test_a_hold_that_nobody_releases_ends_by_itself() -> None:
    with supervisord(Program(numprocs=1, extra="autorestart=false")) as (site, board):
        assert board.hold("web", 1.0)
        signal_worker(board, "web:web-0", "KILL")
        with Rpc(site.server_url) as rpc:  # supervisord's own calls: ours would end the hold themselves
            wait_for(lambda: Calls(rpc).process("web:web-0").state == "EXITED", DEADLINE_S, "EXITED")

        def refused() -> bool:
            try:
                client.Connection(site.url(), timeout_s=1.0).connect()
            except ConnectionRefusedError:
                return True
            return False

        wait_for(refused, 20.0, "the socket to be closed at a TICK")


# -- TCP_NODELAY


def keep_alive_median_s(url: str, count: int = 60) -> float:
    connection = client.Connection(url)
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        status, _ = connection.ask("/pid")
        seconds.append(time.perf_counter() - began)
        assert status == 200
    connection.close()
    return statistics.median(seconds)


def test_a_keep_alive_request_takes_no_delayed_ack(figures: Callable[..., None]) -> None:
    with supervisord(Program(numprocs=1)) as (site, board):
        with_plugin_s = keep_alive_median_s(site.url())
        assert shared(board).nodelay
        assert site.ctl("restart", "web:*").returncode == 0  # closed, and made anew
        wait_serving(site)
        anew_s = keep_alive_median_s(site.url())
    with supervisord(Program(numprocs=1), sections=SECTION + "tcp_nodelay=off") as (site, board):
        assert not shared(board).nodelay
        without_s = keep_alive_median_s(site.url())
    figures(with_ms=with_plugin_s * 1000, made_anew_ms=anew_s * 1000, without_ms=without_s * 1000)
    assert without_s > 0.030
    assert with_plugin_s < 0.010
    assert anew_s < 0.010


# -- supervisord's own operations


def test_reload_update_remove_and_add_with_a_hold_under_way() -> None:
    with supervisord(Program(numprocs=2)) as (site, board):
        assert site.process is not None
        assert board.report('{"a": 1}')
        assert board.keep("pause", "web")
        assert board.hold("web", 600.0)
        assert site.ctl("reload").returncode == 0
        wait_for(lambda: board_answers(board, '{"a": 1}'), DEADLINE_S, "supervisord after its reload")
        assert (board.kept("pause") or Note()).text == "web"
        before = wait_serving(site)
        assert shared(board).nodelay
        assert (shared(board).refcount, shared(board).held_s) == (2, 0.0)

        assert board.hold("web", 600.0)
        conf = site.conf_path.read_text()
        port = site.url().rpartition(":")[2]
        site.programs["web"].socket = f"tcp://127.0.0.1:{free_port()}"
        site.conf_path.write_text(conf.replace(f"127.0.0.1:{port}", site.url()[len("tcp://") :]))
        assert "updated" in site.ctl("update").stdout
        pids = wait_serving(site)
        assert set(pids.values()).isdisjoint(before.values())
        assert (shared(board).url, shared(board).refcount, shared(board).held_s) == (site.url(), 2, 0.0)
        assert shared(board).nodelay

        assert board.hold("web", 600.0)
        for words in (["stop", "web:*"], ["remove", "web"], ["add", "web"]):
            done = site.ctl(*words)
            assert done.returncode == 0, done.stdout + done.stderr
        wait_serving(site)
        assert shared(board).refcount == 2
        assert client.ask(site.url(), "/pid")[0] == 200
        assert site.process.poll() is None


def board_answers(board: Board, text: str) -> bool:
    try:
        note = board.read()
        return note is not None and note.text == text and Calls(board.rpc).state() == "RUNNING"
    except RpcError:  # it is stopping, or between its two lives
        return False


def test_shutdown_ends_with_a_hold_under_way() -> None:
    with supervisord(Program(numprocs=1)) as (site, board):
        assert board.hold("web", 600.0)
        assert site.stop() == 0


def test_two_http_servers_are_one_plugin() -> None:
    port = free_port()
    inet = f"\n[inet_http_server]\nport=127.0.0.1:{port}\n"
    with (
        supervisord(Program(numprocs=1), sections=SECTION + inet) as (_, board),
        Rpc(f"http://127.0.0.1:{port}") as rpc,
    ):
        other = Board(rpc)
        assert board.report("seen by both")
        note = other.read()
        assert note is not None
        assert note.text == "seen by both"
        assert 0.0 <= note.age_s < DEADLINE_S
        assert abs(note.at - time.time()) < DEADLINE_S
        assert board.hold("web", 60.0)
        assert other.hold("web", 60.0)
        assert shared(board).refcount == 2
        assert other.release("web")
        assert shared(board).refcount == 1


@pytest.mark.parametrize(
    ("settings", "line"),
    [("tcp_nodelay=perhaps", "write tcp_nodelay=true or tcp_nodelay=false"), ("nodelay=true", "no setting nodelay")],
)
def test_a_wrong_setting_is_said_once_and_supervisord_starts(settings: str, line: str) -> None:
    inet = f"\n[inet_http_server]\nport=127.0.0.1:{free_port()}\n"
    with supervisord(Program(numprocs=1), sections=SECTION + settings + inet) as (site, board):
        log = (site.scratch / "supervisord.log").read_text()
        assert log.count(line) == 1
        assert board.hold("web", 60.0)


# -- workers, and a supervisord without us


def test_a_signal_reaches_only_the_worker_that_is_meant() -> None:
    with supervisord(Program(numprocs=2, extra="autorestart=false")) as (site, board):
        info = Calls(board.rpc).process("web:web-0")
        for pid, start in ((info.pid + 1, info.start), (info.pid, info.start - 1)):
            with pytest.raises(Fault) as refused:
                board.signal_worker("web:web-0", pid, start, "KILL")
            assert refused.value.code == DIFFERS
            assert "nothing was sent" in refused.value.text
        assert processes.alive(info.pid)
        assert board.signal_worker("web:web-0", info.pid, info.start, "KILL")
        wait_for(lambda: site.states()["web:web-0"] == "EXITED", DEADLINE_S, "EXITED")
        with pytest.raises(Fault) as refused:
            board.signal_worker("web:web-0", info.pid, info.start, "KILL")
        assert refused.value.code == NOT_RUNNING
        assert site.states()["web:web-1"] == "RUNNING"


def test_without_the_section_everything_says_so_and_does_nothing() -> None:
    with supervisord(Program(numprocs=1), sections="") as (site, board):
        info = Calls(board.rpc).process("web:web-0")
        assert board.read() is None
        assert board.kept("key") is None
        assert board.sockets() is None
        assert not board.report("{}")
        assert not board.keep("key", "text")
        assert not board.hold("web", 5.0)
        assert not board.release("web")
        assert not board.signal_worker("web:web-0", info.pid, info.start, "KILL")
        assert site.pids()["web:web-0"] == info.pid


def test_any_text_comes_back_as_it_was() -> None:
    with supervisord(Program(numprocs=1)) as (_, board):
        assert board.read() == Note()
        assert board.kept("nothing") == Note()
        for text in (json.dumps({"ä\n\x00<&]]>": ["\u2028", "😀"]}), "ä <&> ]]> 😀\n"):
            assert board.report(text)
            assert board.keep("cell", text)
            assert (board.read() or Note()).text == text
            assert (board.kept("cell") or Note()).text == text


# -- what it costs supervisord


def test_a_board_of_256_workers_holds_supervisord_up_for_less_than_10_ms(figures: Callable[..., None]) -> None:
    worker = {"name": "web:web-255", "pid": 123456, "state": "RUNNING", "watched": True, "verdict": "healthy",
              "reason": "", "lag_s": 0.000021, "http": {"status": 200, "seconds": 0.0042}, "since_s": 312.4,
              "restarts": 0}  # fmt: skip
    text = json.dumps({"age_s": 0.4, "programs": [{"name": "web", "workers": [worker] * 256}]})
    with supervisord(Program(numprocs=1)) as (site, board):
        assert site.process is not None

        def cpu_ms(call: Callable[[], object], count: int = 200) -> float:
            assert site.process is not None
            before_s = processes.cpu_s(site.process.pid)
            for _ in range(count):
                assert call() is not None
            return (processes.cpu_s(site.process.pid) - before_s) * 1000 / count

        costs_ms = {
            "getState": cpu_ms(lambda: board.rpc.call("supervisor.getState")),
            "report": cpu_ms(lambda: board.report(text)),
            "board": cpu_ms(board.read),
            "getSockets": cpu_ms(board.sockets),
            "hold": cpu_ms(lambda: board.hold("web", 60.0)),
        }
        figures(text_bytes=len(text), **{f"{name}_ms": round(cost, 2) for name, cost in costs_ms.items()})
        assert all(cost < 10.0 for cost in costs_ms.values()), costs_ms


def test_a_report_too_large_is_refused_before_and_behind_the_wire() -> None:
    with supervisord(Program(numprocs=1)) as (_, board):
        largest = "x" * MAX_TEXT_BYTES
        assert board.report(largest)
        for report in (board.report, lambda text: board.rpc.call("uvicorn.report", text)):
            with pytest.raises(Fault, match="has 1048577 bytes, at most 1048576 are kept") as refused:
                report(largest + "y")
            assert refused.value.code == INCORRECT_PARAMETERS
        assert (board.read() or Note()).text == largest
