"""supervisord's own exit code, asked for through the plugin: at the very end, and for one shutdown only."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from harness.supervisord import PLUGIN, Program, Supervisord
from harness.waiting import wait_for

from supervisor_uvicorn.plugin import exit_code
from supervisor_uvicorn.supervisord.board import Board
from supervisor_uvicorn.supervisord.calls import Supervisord as Calls
from supervisor_uvicorn.supervisord.rpc import INCORRECT_PARAMETERS, SHUTDOWN_STATE, Fault, Rpc, RpcError

CODE = 69
DEADLINE_S = 40.0


@pytest.fixture
def site() -> Iterator[Supervisord]:
    with Supervisord(Program(numprocs=1), listen=None, sections=PLUGIN) as site:
        site.wait_running()
        yield site


def ended(site: Supervisord) -> int:
    assert site.process is not None
    return site.process.wait(DEADLINE_S)


def test_it_ends_with_the_code_when_everything_else_has_ended(site: Supervisord) -> None:
    pids = site.pids()
    with Rpc(site.server_url) as rpc:
        assert Board(rpc).leave(CODE)
    assert ended(site) == CODE
    log = (site.scratch / "supervisord.log").read_text()
    assert f"supervisord will end with exit code {CODE}" in log
    assert "stopped: web-0" in log
    assert not any((site.scratch / name).exists() for name in ("supervisord.pid", "supervisor.sock"))
    assert len(pids) == 1
    assert not (site.scratch / "supervisord.out").read_text().count("Traceback")


def test_the_last_lines_of_its_log_reach_a_pipe(site: Supervisord) -> None:
    """-n writes its log to stdout, which is a file here: nothing of it may be lost in a buffer."""
    with Rpc(site.server_url) as rpc:
        Board(rpc).leave(CODE)
    ended(site)
    out = (site.scratch / "supervisord.out").read_text().splitlines()
    assert any("stopped: web-0" in line for line in out[-2:])


def test_a_term_meanwhile_changes_nothing(site: Supervisord) -> None:
    assert site.process is not None
    with Rpc(site.server_url) as rpc:
        Board(rpc).leave(CODE)
    site.process.send_signal(signal.SIGTERM)
    assert ended(site) == CODE


def test_a_hup_meanwhile_does_not_turn_it_into_a_reload(site: Supervisord) -> None:
    assert site.process is not None
    with Rpc(site.server_url) as rpc:
        Board(rpc).leave(CODE)
    site.process.send_signal(signal.SIGHUP)
    assert ended(site) == CODE


def test_an_operators_own_shutdown_keeps_its_code(site: Supervisord) -> None:
    with Rpc(site.server_url) as rpc:
        assert rpc.call("uvicorn.exitCode", CODE)
        assert rpc.call("uvicorn.exitCode", 0)  # called off
        rpc.call("supervisor.shutdown")
    assert ended(site) == 0


def test_a_code_of_long_ago_is_not_the_code_of_this_shutdown(site: Supervisord) -> None:
    with Rpc(site.server_url) as rpc:
        assert rpc.call("uvicorn.exitCode", CODE)
        began = Calls(rpc).process("web:web-0").now
        wait_for(
            lambda: Calls(rpc).process("web:web-0").now - began > exit_code.FRESH_S + 1,
            DEADLINE_S,
            "supervisord's own clock",
        )
        rpc.call("supervisor.shutdown")
    assert ended(site) == 0
    assert "too long before this shutdown" in (site.scratch / "supervisord.log").read_text()


def test_a_reload_forgets_it(site: Supervisord) -> None:
    with Rpc(site.server_url) as rpc:
        assert rpc.call("uvicorn.exitCode", CODE)
        rpc.call("supervisor.restart")

    def reloaded() -> bool:
        try:
            with Rpc(site.server_url) as rpc:
                log = (site.scratch / "supervisord.log").read_text()
                return log.count("RPC interface 'uvicorn' initialized") == 2 and Calls(rpc).state() == "RUNNING"
        except RpcError:
            return False

    wait_for(reloaded, DEADLINE_S, "supervisord after its reload")
    assert site.stop() == 0


def test_once_a_shutdown_is_under_way_it_is_refused() -> None:
    slow = Program(numprocs=1, extra="stopwaitsecs=5", command="sh -c 'trap \"\" TERM; while :; do sleep 1; done'")
    with Supervisord(slow, listen=None, sections=PLUGIN) as site, Rpc(site.server_url) as rpc:
        site.wait_running()
        rpc.call("supervisor.shutdown")
        with pytest.raises(Fault) as refused:
            Board(rpc).leave(CODE)
        assert refused.value.code == SHUTDOWN_STATE
        with pytest.raises(Fault) as refused:
            rpc.call("uvicorn.exitCode", CODE)
        assert refused.value.code == SHUTDOWN_STATE
        assert ended(site) == 0


@pytest.mark.parametrize("code", [-1, 256, "69", True])
def test_what_is_no_exit_code_is_refused(site: Supervisord, code: object) -> None:
    with Rpc(site.server_url) as rpc, pytest.raises(Fault, match="from 1 to 255") as refused:
        rpc.call("uvicorn.exitCode", code)
    assert refused.value.code == INCORRECT_PARAMETERS


def test_without_the_plugin_it_ends_all_the_same_and_says_that_the_code_is_0() -> None:
    with Supervisord(Program(numprocs=1), listen=None) as site, Rpc(site.server_url) as rpc:
        site.wait_running()
        assert Board(rpc).leave(CODE) is False
        assert ended(site) == 0
