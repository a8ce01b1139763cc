"""The methods of ``[rpcinterface:uvicorn]`` on supervisor's own objects, in this process and without a child.

Groups, sockets, events and the XML-RPC dispatch are real; processes only change their state and take their reference
to the socket, as supervisor's ``spawn`` and ``finish`` do. What needs real processes is in ``tests/integration``.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from supervisor import events
from supervisor.options import ServerOptions
from supervisor.states import ProcessStates, SupervisorStates
from supervisor.supervisord import Supervisor
from supervisor.xmlrpc import Faults, RootRPCInterface, RPCError, SystemNamespaceRPCInterface, traverse

from supervisor_uvicorn.plugin import memory, rpcinterface, sockets
from supervisor_uvicorn.supervisord import board

CONF = """
[supervisord]
logfile={home}/supervisord.log
pidfile={home}/supervisord.pid
childlogdir={home}

[fcgi-program:tcp]
socket=tcp://127.0.0.1:{port}
socket_backlog=77
command=/bin/true
numprocs=2
process_name=tcp-%(process_num)d
stdout_logfile=NONE
stderr_logfile=NONE

[fcgi-program:unix]
socket=unix://{home}/unix.sock
command=/bin/true
stdout_logfile=NONE
stderr_logfile=NONE

[program:plain]
command=/bin/true
stdout_logfile=NONE
stderr_logfile=NONE
"""


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Site:
    """A Supervisor with its groups, our interface as XML-RPC sees it, and a clock for holds."""

    def __init__(self, home: Path, **settings: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        (home / "supervisord.conf").write_text(CONF.format(home=home, port=port))
        self.log_path = home / "supervisord.log"
        options = ServerOptions()
        options.realize(args=["-c", str(home / "supervisord.conf")])
        options.make_logger()
        options.mood = SupervisorStates.RUNNING
        self.supervisor = Supervisor(options)
        self.supervisor.process_groups = {}
        for config in options.process_group_configs:
            self.supervisor.add_process_group(config)
        self.interface = rpcinterface.make_rpcinterface(self.supervisor, **settings)
        self.clock = Clock()
        self.sockets: Any = self.interface._plugin.sockets
        self.sockets._clock = self.clock
        self.root = RootRPCInterface([("uvicorn", self.interface)])

    def call(self, method: str, *params: Any) -> Any:
        return traverse(self.root, f"uvicorn.{method}", params)

    def fault(self, method: str, *params: Any) -> tuple[int, str]:
        with pytest.raises(RPCError) as caught:
            self.call(method, *params)
        return caught.value.code, caught.value.text

    def process(self, name: str) -> Any:
        return self.supervisor.process_groups[name.partition("-")[0]].processes[name]

    def start(self, name: str) -> None:
        process = self.process(name)
        process.before_spawn()
        process.administrative_stop = False
        process.change_state(ProcessStates.STARTING)
        process.change_state(ProcessStates.RUNNING)

    def end(self, name: str, state: int = ProcessStates.EXITED) -> None:
        process = self.process(name)
        process.change_state(state)
        process.after_finish()

    def socket(self, group: str) -> dict[str, Any]:
        return next(struct for struct in self.call("getSockets") if struct["group"] == group)

    def log(self) -> list[str]:
        return [line for line in self.log_path.read_text().splitlines() if "supervisor-uvicorn" in line]


@pytest.fixture(autouse=True)
def _no_subscribers_left() -> Iterator[None]:
    events.clear()
    yield
    events.clear()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    _close(made)


def _close(made: Site) -> None:
    made.sockets._holds.clear()
    for group in made.supervisor.process_groups.values():
        for process in group.processes.values():
            process.fcgi_sock = None
    made.supervisor.options.logger.close()


# -- the sockets


def test_a_tcp_socket_gets_nodelay_at_each_start_and_a_unix_socket_nothing(site: Site) -> None:
    assert [struct["group"] for struct in site.call("getSockets")] == ["tcp", "unix"]
    assert site.socket("tcp")["prepared"] is False
    assert site.socket("tcp")["fd"] == -1

    site.start("tcp-0")
    site.start("unix")
    tcp = site.socket("tcp")
    assert (tcp["nodelay"], tcp["prepared"], tcp["refcount"], tcp["backlog"]) == (True, True, 1, 77)
    assert tcp["url"].startswith("tcp://127.0.0.1:")
    assert tcp["fd"] == site.supervisor.process_groups["tcp"].socket_manager.socket.fileno()
    unix = site.socket("unix")
    assert (unix["nodelay"], unix["prepared"], unix["backlog"]) == (False, True, socket.SOMAXCONN)

    first = site.supervisor.process_groups["tcp"].socket_manager.socket
    site.end("tcp-0")
    site.start("tcp-1")
    assert site.supervisor.process_groups["tcp"].socket_manager.socket is not first
    assert site.socket("tcp")["nodelay"] is True


def test_nodelay_can_be_switched_off(tmp_path: Path) -> None:
    site = Site(tmp_path, tcp_nodelay="off")
    site.start("tcp-0")
    assert site.socket("tcp")["nodelay"] is False
    assert site.log() == []
    _close(site)


@pytest.mark.parametrize("group", ["tcp", "unix"])
def test_a_held_socket_outlives_the_last_process_and_is_the_same_one(site: Site, group: str) -> None:
    name = {"tcp": "tcp-0", "unix": "unix"}[group]
    site.start(name)
    before = site.socket(group)
    assert site.call("hold", group, 30.0) is True
    assert site.socket(group)["refcount"] == 2
    site.end(name)
    held = site.socket(group)
    assert (held["prepared"], held["refcount"], held["fd"]) == (True, 1, before["fd"])
    assert held["held_s"] == 30.0
    site.start(name)
    assert site.call("release", group) is True
    assert site.socket(group)["refcount"] == 1
    assert site.call("release", group) is False


def test_a_release_closes_what_nobody_uses(site: Site) -> None:
    site.start("tcp-0")
    site.call("hold", "tcp", 30.0)
    site.end("tcp-0")
    site.call("release", "tcp")
    assert site.socket("tcp")["prepared"] is False


def test_a_hold_ends_at_its_deadline_with_a_tick_and_a_second_one_only_makes_it_longer(site: Site) -> None:
    site.start("tcp-0")
    site.call("hold", "tcp", 30.0)
    site.call("hold", "tcp", 10.0)
    site.end("tcp-0")
    manager = site.supervisor.process_groups["tcp"].socket_manager
    site.clock.now += 29.9
    events.notify(events.Tick5Event(5, site.supervisor))
    assert manager.is_prepared()
    site.call("hold", "tcp", 10.0)
    site.clock.now += 9.9
    events.notify(events.Tick5Event(10, site.supervisor))
    assert manager.is_prepared()
    site.clock.now += 0.2
    events.notify(events.Tick5Event(15, site.supervisor))
    assert not manager.is_prepared()
    assert "deadline" in site.log()[-1]


def test_without_a_tick_the_next_call_ends_a_hold(site: Site) -> None:
    site.start("tcp-0")
    site.call("hold", "tcp", 1)
    site.clock.now += 1.1
    assert site.socket("tcp")["refcount"] == 1


def test_an_operators_stop_of_the_program_lets_go(site: Site) -> None:
    for name in ("tcp-0", "tcp-1"):
        site.start(name)
    site.call("hold", "tcp", 30.0)
    site.process("tcp-0").change_state(ProcessStates.STOPPING)
    assert site.socket("tcp")["held_s"] == 30.0  # the other one serves
    site.process("tcp-1").change_state(ProcessStates.STOPPING)
    assert site.socket("tcp")["held_s"] == 0.0
    site.end("tcp-0", ProcessStates.STOPPED)
    assert site.socket("tcp")["prepared"] is True
    site.end("tcp-1", ProcessStates.STOPPED)
    assert site.socket("tcp")["prepared"] is False


def test_a_stop_lets_go_where_the_other_is_fatal(site: Site) -> None:
    """It no longer comes back by itself, and cannot be stopped: clients are to be refused at once."""
    for name in ("tcp-0", "tcp-1"):
        site.start(name)
    site.call("hold", "tcp", 30.0)
    site.end("tcp-0")
    site.process("tcp-0").change_state(ProcessStates.FATAL)
    site.process("tcp-1").change_state(ProcessStates.STOPPING)
    site.end("tcp-1", ProcessStates.STOPPED)
    assert site.socket("tcp")["refcount"] == 0


def test_a_stop_of_one_keeps_the_socket_for_the_one_that_is_coming_back(site: Site) -> None:
    for name in ("tcp-0", "tcp-1"):
        site.start(name)
    site.call("hold", "tcp", 30.0)
    site.end("tcp-0")
    site.process("tcp-1").change_state(ProcessStates.STOPPING)
    site.end("tcp-1", ProcessStates.STOPPED)
    assert site.socket("tcp")["refcount"] == 1
    site.start("tcp-0")
    site.process("tcp-0").change_state(ProcessStates.STOPPING)  # now that one as well
    assert site.socket("tcp")["held_s"] == 0.0
    site.end("tcp-0", ProcessStates.STOPPED)


def test_what_was_fatal_before_is_nobody_to_wait_for(site: Site) -> None:
    site.start("tcp-0")
    site.process("tcp-1").state = ProcessStates.FATAL
    site.call("hold", "tcp", 30.0)
    site.process("tcp-0").change_state(ProcessStates.STOPPING)
    assert site.socket("tcp")["held_s"] == 0.0


def test_a_stop_in_backoff_lets_go(site: Site) -> None:
    site.start("unix")
    site.call("hold", "unix", 30.0)
    site.end("unix")
    process = site.process("unix")
    process.change_state(ProcessStates.STARTING)
    process.change_state(ProcessStates.BACKOFF)
    assert site.socket("unix")["prepared"] is True
    process.stop()  # supervisor's own: STOPPED at once
    assert site.socket("unix")["prepared"] is False


def test_the_removal_of_the_group_and_the_end_of_supervisord_let_go(site: Site) -> None:
    for name in ("tcp-0", "unix"):
        site.start(name)
        site.call("hold", name.partition("-")[0], 30.0)
        site.end(name)
    managers = {name: group.socket_manager for name, group in site.supervisor.process_groups.items() if name != "plain"}
    assert site.supervisor.remove_process_group("tcp")
    assert not managers["tcp"].is_prepared()
    assert managers["unix"].is_prepared()
    events.notify(events.SupervisorStoppingEvent())
    assert not managers["unix"].is_prepared()


def test_a_hold_is_refused_with_its_reason(site: Site) -> None:
    assert site.fault("hold", "nowhere", 5.0)[0] == Faults.BAD_NAME
    code, text = site.fault("hold", "plain", 5.0)
    assert code == Faults.BAD_NAME
    assert "no [fcgi-program]" in text
    code, text = site.fault("hold", "tcp", 5.0)
    assert code == Faults.FAILED
    assert "no process of it lives" in text
    assert site.socket("tcp")["prepared"] is False  # not opened by asking
    site.start("tcp-0")
    for seconds in (0, -1.0, 3600.5, "5", True, float("nan")):
        assert site.fault("hold", "tcp", seconds)[0] == Faults.INCORRECT_PARAMETERS
    site.process("tcp-0").change_state(ProcessStates.STOPPING)
    code, text = site.fault("hold", "tcp", 5.0)
    assert code == Faults.FAILED
    assert "stopped" in text
    site.supervisor.options.mood = SupervisorStates.SHUTDOWN
    assert site.fault("hold", "tcp", 5.0)[0] == Faults.SHUTDOWN_STATE
    assert site.fault("hold", "tcp")[0] == Faults.INCORRECT_PARAMETERS


def test_an_error_in_an_event_is_logged_and_does_not_reach_supervisord(site: Site) -> None:
    site.start("tcp-0")
    site.end("tcp-0")
    group = site.supervisor.process_groups["tcp"]
    manager, group.socket_manager = group.socket_manager, object()
    try:
        site.process("tcp-0").change_state(ProcessStates.STARTING)  # would raise out of notify()
    finally:
        group.socket_manager = manager
    assert "ProcessStateStartingEvent was not acted on: AttributeError" in site.log()[-1]


def test_an_unforeseen_error_is_a_fault_and_a_line(site: Site) -> None:
    site.start("tcp-0")
    manager = site.supervisor.process_groups["tcp"].socket_manager
    kept, manager.socket = manager.socket, None
    code, text = site.fault("getSockets")
    manager.socket = kept
    assert code == Faults.FAILED
    assert "AttributeError" in text
    assert "getSockets failed" in site.log()[-1]


# -- signalWorker: whatever differs, nothing is sent


def test_signal_worker_compares_before_it_signals(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.start("tcp-0")
    process = site.process("tcp-0")
    process.pid, process.laststart = 4711, 1700000000.75
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(site.supervisor.options, "kill", lambda pid, number: sent.append((pid, number)))

    code, text = site.fault("signalWorker", "tcp:tcp-0", 4712, 1700000000, "KILL")
    assert code == rpcinterface.DIFFERS
    assert "has pid 4711, not 4712" in text
    code, text = site.fault("signalWorker", "tcp:tcp-0", 4711, 1700000001, "KILL")
    assert code == rpcinterface.DIFFERS
    assert "started at 1700000000" in text
    for state in (ProcessStates.STARTING, ProcessStates.STOPPING, ProcessStates.EXITED, ProcessStates.BACKOFF):
        process.state = state
        assert site.fault("signalWorker", "tcp:tcp-0", 4711, 1700000000, "KILL")[0] == Faults.NOT_RUNNING
    process.state = ProcessStates.RUNNING
    assert site.fault("signalWorker", "tcp:tcp-0", 4711, 1700000000, "NONSENSE")[0] == Faults.BAD_SIGNAL
    for name in ("tcp:tcp-7", "nowhere:tcp-0", "tcp:*", "tcp", ""):
        assert site.fault("signalWorker", name, 4711, 1700000000, "KILL")[0] == Faults.BAD_NAME
    site.supervisor.options.mood = SupervisorStates.RESTARTING
    assert site.fault("signalWorker", "tcp:tcp-0", 4711, 1700000000, "KILL")[0] == Faults.SHUTDOWN_STATE
    site.supervisor.options.mood = SupervisorStates.RUNNING
    assert sent == []

    assert site.call("signalWorker", "tcp:tcp-0", 4711, 1700000000, "KILL") is True
    assert sent == [(4711, 9)]
    process.pid = 0


# -- the memory


def test_the_board_is_replaced_and_ages() -> None:
    clock, wall = Clock(), Clock()
    kept = memory.Memory(clock, wall)
    assert kept.board() == {"text": "", "age_s": -1.0, "at": 0.0}
    kept.report('{"a": 1}')
    clock.now += 2.5
    wall.now -= 3600  # the wall clock is set back: no age follows
    assert kept.board() == {"text": '{"a": 1}', "age_s": 2.5, "at": 1000.0}
    kept.report("")
    assert kept.board()["age_s"] == 0.0


def test_a_report_too_large_is_refused_and_the_board_is_as_before() -> None:
    kept = memory.Memory()
    kept.report("x" * memory.MAX_TEXT_BYTES)
    with pytest.raises(RPCError) as caught:
        kept.report("y" * (memory.MAX_TEXT_BYTES - 1) + "ä")
    assert str(memory.MAX_TEXT_BYTES + 1) in caught.value.text
    assert kept.board()["text"][0] == "x"


def test_cells_are_bounded_in_number_and_size() -> None:
    kept = memory.Memory()
    assert kept.kept("history")["age_s"] == -1.0
    for number in range(memory.MAX_CELLS):
        kept.keep(f"cell-{number}", "x")
    with pytest.raises(RPCError, match="at most 64"):
        kept.keep("one more", "x")
    kept.keep("cell-0", "y")  # a new text is no new cell
    kept.keep("cell-1", "")
    kept.keep("one more", "x")
    with pytest.raises(RPCError, match="at most 1048576"):
        kept.keep("cell-0", "y" * (memory.MAX_TEXT_BYTES + 1))
    assert kept.kept("cell-0")["text"] == "y"
    for number in range(3, 7):
        kept.keep(f"cell-{number}", "y" * (memory.MAX_TEXT_BYTES - 15))  # 60 single letters beside them: exactly full
    with pytest.raises(RPCError, match="what was kept before stays"):
        kept.keep("cell-2", "xx")
    assert kept.kept("cell-2")["text"] == "x"
    kept.keep("cell-3", "y")  # what it replaces does not count
    kept.keep("cell-2", "xx")
    for key in ("", "k" * 201, 7):
        with pytest.raises(RPCError):
            kept.keep(key, "x")  # type: ignore[arg-type]


def test_only_strings_are_kept(site: Site) -> None:
    assert site.fault("report", {"a": 1})[0] == Faults.INCORRECT_PARAMETERS
    assert site.fault("keep", "key", 7)[0] == Faults.INCORRECT_PARAMETERS
    assert site.call("kept", 7)["age_s"] == -1.0


# -- the factory


def test_two_http_servers_have_one_state_and_one_subscription(site: Site) -> None:
    count = len(events.callbacks)
    second = rpcinterface.make_rpcinterface(site.supervisor)
    assert len(events.callbacks) == count
    site.start("tcp-0")
    assert second.hold("tcp", 5.0) is True
    assert site.call("release", "tcp") is True


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tcp_nodelay": "mabye"}, ["tcp_nodelay=mabye is not understood", "write tcp_nodelay=true"]),
        ({"keep_socket": ""}, ["keep_socket= is not understood", "write keep_socket=true"]),
        ({"tcp_no_delay": "true"}, ["there is no setting tcp_no_delay", "tcp_nodelay, keep_socket"]),
        ({"odd": "100%s"}, ["odd=100%s does nothing"]),
    ],
)
def test_a_wrong_setting_is_one_line_and_no_obstacle(tmp_path: Path, settings: dict[str, str], said: list[str]) -> None:
    site = Site(tmp_path, **settings)
    rpcinterface.make_rpcinterface(site.supervisor, **settings)  # a second HTTP server says nothing again
    (line,) = site.log()
    for words in said:
        assert words in line
    site.start("tcp-0")
    assert site.socket("tcp")["nodelay"] is ("tcp_nodelay" not in settings)
    if "keep_socket" in settings:
        code, text = site.fault("hold", "tcp", 5.0)
        assert code == Faults.FAILED
        assert "keep_socket" in text
    else:
        assert site.call("hold", "tcp", 5.0) is True
    _close(site)


def test_every_method_explains_itself_to_system_method_help(site: Site) -> None:
    system = SystemNamespaceRPCInterface([("uvicorn", site.interface)])
    methods = [name for name in system.listMethods() if name.startswith("uvicorn.")]
    assert {"uvicorn.board", "uvicorn.getSockets", "uvicorn.hold", "uvicorn.signalWorker"} < set(methods)
    for name in methods:
        assert system.methodHelp(name)
        assert system.methodSignature(name)
    assert system.methodSignature("uvicorn.signalWorker") == ["boolean", "string", "int", "int", "string"]


def test_the_client_knows_the_plugins_bounds() -> None:
    assert board.MAX_TEXT_BYTES == memory.MAX_TEXT_BYTES
    assert board.MAX_CELLS_BYTES == memory.MAX_CELLS_BYTES
    assert board.MAX_HOLD_S == sockets.MAX_HOLD_S
    assert board.DIFFERS == rpcinterface.DIFFERS
