"""What a read makes of supervisord's list where the kernel tells something odd; real processes are in the integration
tests."""

from __future__ import annotations

import os

import pytest

from supervisor_uvicorn.intentions import Intention
from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.errors import Exhausted, Gone, KernelError, Refused, Unavailable
from supervisor_uvicorn.kernel.sock_diag import Listening, SockDiag
from supervisor_uvicorn.model import Address, State
from supervisor_uvicorn.roster import TREE_LOOKS, Roster
from supervisor_uvicorn.supervisord.calls import ProcessConfig, ProcessInfo

UVICORN = ["python", "-m", "uvicorn", "--fd", "0", "app:app"]
INODE = 77
AT = Address("tcp", "127.0.0.1", 8000)


class Machine:
    """What /proc and sock_diag say, of one or more pids."""

    def __init__(self) -> None:
        self.born: dict[int, int] = {}
        self.argv: dict[int, list[str]] = {}
        self.watched: dict[int, frozenset[int]] = {}
        self.children: dict[int, list[int]] = {}
        self.fd0: int | None = INODE
        self.environ: dict[str, str] = {}
        self.error: dict[str, KernelError] = {}
        self.reads = 0

    def add(self, pid: int, argv: list[str], watches: bool = True, born: int = 1) -> None:
        self.born[pid] = born
        self.argv[pid] = argv
        self.watched[pid] = frozenset({INODE}) if watches else frozenset()

    def ask(self, what: str, pid: int) -> None:
        if what in self.error:
            raise self.error[what]
        if pid not in self.born:
            raise Gone(f"/proc/{pid}: gone")

    def listening(self) -> dict[int, Listening]:
        if "listening" in self.error:
            raise self.error["listening"]
        return {INODE: Listening(AT, 0, 2048)}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    m = Machine()

    def answer(what: str, table: dict[int, object]) -> object:
        def function(pid: int, *_: object) -> object:
            m.ask(what, pid)
            if what == "epoll":
                m.reads += 1
            return table[pid]

        return function

    def environ(pid: int) -> dict[str, str]:
        m.ask("environ", pid)
        return m.environ

    def socket_inode(pid: int, fd: int) -> int | None:
        m.ask("fd", pid)
        return m.fd0

    monkeypatch.setattr(proc, "born", answer("born", m.born))  # type: ignore[arg-type]
    monkeypatch.setattr(proc, "cmdline", answer("cmdline", m.argv))  # type: ignore[arg-type]
    monkeypatch.setattr(proc, "epoll_watched_inodes", answer("epoll", m.watched))  # type: ignore[arg-type]
    monkeypatch.setattr(proc, "environ", environ)
    monkeypatch.setattr(proc, "socket_inode", socket_inode)
    monkeypatch.setattr(proc, "process_table", dict)
    monkeypatch.setattr(proc, "descendants", lambda pid, table: m.children.get(pid, []))
    monkeypatch.setattr(SockDiag, "listening", lambda self: m.listening())
    return m


def info(name: str = "web:web-0", pid: int = 100, state: State = State.RUNNING) -> ProcessInfo:
    return ProcessInfo(name, state, pid, 1000)


def config(command: str, name: str = "web:web-0") -> dict[str, ProcessConfig]:
    return {name: ProcessConfig(name, command, stopwaitsecs=7, killasgroup=True)}


def test_a_settled_worker_costs_no_look_at_its_descriptors(machine: Machine) -> None:
    machine.add(100, UVICORN)
    roster = Roster(SockDiag())
    (member,) = roster.read([info()], config("uvicorn --fd 0 app:app"))
    assert (member.born, member.socket, member.socket_inode) == (1, AT, INODE)
    assert (member.stopwaitsecs, member.killasgroup, member.start) == (7, True, 1000)
    assert not roster.unsettled
    reads = machine.reads
    for _ in range(5):
        assert roster.read([info()], {})[0].socket == AT
    assert machine.reads == reads


def test_a_pid_that_is_used_again_is_another_worker(machine: Machine) -> None:
    machine.add(100, UVICORN)
    roster = Roster(SockDiag())
    first = roster.read([info()], {})[0]
    machine.add(100, UVICORN, watches=False, born=2)
    second = roster.read([info()], {})[0]
    assert first.worker != second.worker
    assert second.socket == AT
    assert roster.unsettled, "what was learned of the first says nothing about the second"


def test_starting_is_told_from_serving_by_unsettled(machine: Machine) -> None:
    machine.add(100, UVICORN, watches=False)
    roster = Roster(SockDiag())
    assert roster.read([info(state=State.STARTING)], {})[0].socket == AT, "the socket of --fd is known from the start"
    assert not roster.unsettled, "supervisord's own events tell when it is RUNNING"
    roster.read([info()], {})
    assert roster.unsettled


@pytest.mark.parametrize("state", [State.STOPPED, State.FATAL, State.EXITED, State.BACKOFF])
def test_without_a_process_it_is_a_member_by_what_it_was_or_by_its_command(machine: Machine, state: State) -> None:
    machine.add(100, UVICORN)
    roster = Roster(SockDiag())
    roster.read([info()], {})
    (known,) = roster.read([info(pid=0, state=state)], {})
    assert (known.state, known.pid, known.worker, known.options.fd) == (state, 0, None, 0)
    fresh = Roster(SockDiag())
    (member,) = fresh.read([info(pid=0, state=state)], config("/venv/bin/uvicorn --fd 0 app:app"))
    assert (member.state, member.options.fd, member.stopwaitsecs) == (state, 0, 7)
    assert fresh.read([info(pid=0, state=state)], config("/bin/cat")) == ()
    assert fresh.read([info(pid=0, state=state)], config('/bin/sh -c "unbalanced')) == ()
    assert fresh.read([info(pid=0, state=state)], {}) == ()
    (tree,) = fresh.read([info(pid=0, state=state)], config("uvicorn --workers 2 --fd 0 app:app"))
    assert tree.not_watched


@pytest.mark.parametrize("error", [Gone("hidden"), Refused("hidepid=1"), Exhausted("EMFILE"), KernelError("garbage")])
def test_running_but_not_shown_is_unknown(machine: Machine, error: KernelError) -> None:
    machine.add(100, UVICORN)
    machine.error["born"] = error
    (member,) = Roster(SockDiag()).read([info()], config("uvicorn --fd 0 app:app"))
    assert (member.pid, member.born, member.worker) == (100, None, None)


def test_a_refused_look_leaves_a_worker_of_ticks(machine: Machine) -> None:
    machine.add(100, UVICORN)
    machine.error = {what: Refused("another user's") for what in ("epoll", "environ", "fd")}
    roster = Roster(SockDiag())
    for _ in range(TREE_LOOKS):
        (member,) = roster.read([info()], {})
    assert member.worker is not None
    assert (member.socket, member.options.environ_read, member.not_watched) == (None, False, "")
    assert not roster.unsettled, "it is not asked for ever"


def test_no_descriptor_left_is_no_reason_to_forget(machine: Machine) -> None:
    machine.add(100, UVICORN, watches=False)
    roster = Roster(SockDiag())
    before = roster.read([info()], {})[0]
    machine.error["epoll"] = Exhausted("EMFILE")
    during = roster.read([info()], {})[0]
    assert (during.worker, during.socket) == (before.worker, AT)
    machine.error.clear()
    machine.watched[100] = frozenset({INODE})
    roster.read([info()], {})
    assert not roster.unsettled


def test_without_sock_diag_workers_are_members_without_a_socket(machine: Machine) -> None:
    machine.add(100, UVICORN)
    machine.error["listening"] = Unavailable("no AF_NETLINK")
    (member,) = Roster(SockDiag()).read([info()], {})
    assert member.worker is not None
    assert member.socket is None


def test_a_process_that_execs_later(machine: Machine) -> None:
    machine.add(100, ["sh", "/usr/local/bin/run-web"], watches=False)
    roster = Roster(SockDiag())
    assert roster.read([info()], {}) == ()
    for _ in range(TREE_LOOKS):
        roster.read([info()], {})
    machine.add(100, UVICORN)
    assert roster.read([info()], {})[0].socket == AT
    machine.add(100, ["cat"], watches=False)
    assert roster.read([info()], {}) == ()


def test_a_title_that_hides_the_command(machine: Machine) -> None:
    machine.add(100, UVICORN)
    roster = Roster(SockDiag())
    roster.read([info()], {})
    machine.argv[100] = ["web worker"]
    assert roster.read([info()], {})[0].socket == AT, "it watches its socket as before"
    assert Roster(SockDiag()).read([info()], config("uvicorn --fd 0 app:app"))[0].socket == AT
    assert Roster(SockDiag()).read([info()], config("/usr/bin/other")) == ()
    late = Roster(SockDiag())
    machine.watched[100] = frozenset()
    assert late.read([info()], config("uvicorn --fd 0 app:app")) == (), "a wrapper of that name looks the same"
    machine.watched[100] = frozenset({INODE})
    assert late.read([info()], config("uvicorn --fd 0 app:app"))[0].socket == AT


def test_what_an_application_starts_before_it_serves_makes_no_tree(machine: Machine) -> None:
    machine.add(100, ["uvicorn", "--port", "9000", "app:app"], watches=False)
    machine.add(101, ["node", "renderer.js"])  # listens on 8000
    machine.children[100] = [101]
    (member,) = Roster(SockDiag()).read([info()], {})
    assert member.not_watched == ""


def test_a_tree_that_no_option_shows(machine: Machine) -> None:
    machine.add(100, UVICORN, watches=False)  # WEB_CONCURRENCY from --env-file
    machine.add(101, ["python", "-c", "from multiprocessing.spawn import spawn_main"])
    machine.children[100] = [101]
    roster = Roster(SockDiag())
    (member,) = roster.read([info()], {})
    assert "child process" in member.not_watched
    assert not roster.unsettled
    machine.watched[100] = frozenset({INODE})  # a helper that was forked with the epoll open: it serves itself
    assert roster.read([info()], {})[0].not_watched == ""


def test_a_wrapper_is_looked_into_for_a_while_and_no_longer(machine: Machine) -> None:
    machine.add(100, ["python", "wrapper.py"], watches=False)
    roster = Roster(SockDiag())
    assert roster.read([info()], {}) == ()
    machine.add(101, UVICORN)
    machine.children[100] = [101]
    (member,) = roster.read([info()], {})
    assert "exec" in member.not_watched
    assert not roster.unsettled


def test_groups_narrow_it(machine: Machine) -> None:
    for pid in (100, 101):
        machine.add(pid, UVICORN)
    processes = [info("web:web-0", 100), info("api:api", 101)]
    assert [member.name for member in Roster(SockDiag(), ["api"]).read(processes, {})] == ["api:api"]
    assert [member.name for member in Roster(SockDiag()).read(processes, {})] == ["web:web-0", "api:api"]


def test_names_that_supervisord_no_longer_has_are_forgotten(machine: Machine) -> None:
    machine.add(100, UVICORN)
    roster = Roster(SockDiag())
    roster.read([info()], {})
    assert roster.read([], {}) == ()
    assert roster.read([info(pid=0, state=State.STOPPED)], {}) == ()


def test_this_very_process_is_no_worker() -> None:
    """Without the fixture that stands in for /proc."""
    assert Roster(SockDiag()).read([info(pid=os.getpid())], {}) == ()


def test_between_fork_and_exec_a_name_is_still_a_worker(machine: Machine) -> None:
    """Seen on a real one: the new child still had supervisord's command line, and the name was taken for removed."""
    machine.add(100, UVICORN)
    roster = Roster(SockDiag())
    roster.read([info()], {})
    machine.add(100, [], watches=False)  # it has ended, and supervisord has not reaped it yet
    (member,) = roster.read([info()], {})
    assert (member.name, member.worker) == ("web:web-0", None)
    machine.add(200, ["python", "supervisord", "-n"], watches=False)
    (member,) = roster.read([info(pid=200, state=State.STARTING)], {})
    assert (member.name, member.state, member.worker) == ("web:web-0", State.STARTING, None)


TAKEN_DOWN = Intention("web:web-0", 99, 1, "silent", "abort", signalled=True, fd=0, socket=AT)
SHELL = "/bin/sh -c 'exec uvicorn --fd 0 app:app'"


@pytest.mark.parametrize("state", [State.EXITED, State.FATAL, State.BACKOFF, State.STOPPED])
def test_what_an_earlier_listener_took_down_is_a_member_whatever_its_command(machine: Machine, state: State) -> None:
    roster = Roster(SockDiag(), ours=[TAKEN_DOWN])
    for _ in range(3):
        (member,) = roster.read([info(pid=0, state=state), info("web:web-1", 0, state)], config(SHELL))
        assert (member.name, member.state, member.not_watched) == ("web:web-0", state, "")
        assert (member.options.fd, member.socket) == (0, AT), "before it is started its socket must be free"
    machine.add(100, ["sh", "-c", "exec uvicorn --fd 0 app:app"], watches=False)
    (member,) = roster.read([info(state=State.STARTING)], config(SHELL))
    assert (member.pid, member.worker) == (100, None)
    machine.add(100, UVICORN)
    assert roster.read([info()], config(SHELL))[0].socket == AT
    assert roster.read([info(pid=0, state=state)], config(SHELL))[0].socket == AT, "as it was seen by then"


def test_a_command_that_shows_its_options_is_believed_before_a_bare_name(machine: Machine) -> None:
    command = config("uvicorn --fd 0 --limit-concurrency 5 app:app")
    (member,) = Roster(SockDiag(), ours=[TAKEN_DOWN]).read([info(pid=0, state=State.EXITED)], command)
    assert (member.options.fd, member.options.limit_concurrency, member.socket) == (0, 5, AT)


@pytest.mark.parametrize("what", ["born", "cmdline"])
def test_our_own_want_of_descriptors_is_no_news_of_a_worker(machine: Machine, what: str) -> None:
    machine.add(100, UVICORN)
    roster = Roster(SockDiag())
    (before,) = roster.read([info()], {})
    machine.error[what] = Exhausted("/proc/100/stat: Too many open files")
    for _ in range(3):
        (member,) = roster.read([info()], {})
        assert member == before
    assert roster.unsettled, "asked again soon"
    (stopping,) = roster.read([info(state=State.STOPPING)], {})
    assert (stopping.state, stopping.worker) == (State.STOPPING, before.worker)
    (member,) = roster.read([info(pid=200)], {})
    assert member.worker is None, "another pid is not the one that was seen"
    machine.error.clear()
    reads = machine.reads
    assert roster.read([info()], {})[0].socket == AT
    assert machine.reads > reads, "in between it had another pid"
