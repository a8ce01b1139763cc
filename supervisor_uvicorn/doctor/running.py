"""Reads a supervisord that runs, over RPC and, where it is on this machine, from the kernel. It changes nothing."""

from __future__ import annotations

import os
import re
import shlex
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisor_uvicorn.config_page import search_paths
from supervisor_uvicorn.doctor.configuration import Configuration, Live, Section, Value, is_listener
from supervisor_uvicorn.doctor.site import Process, Running
from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.errors import KernelError
from supervisor_uvicorn.kernel.proc import Kin
from supervisor_uvicorn.kernel.sock_diag import SockDiag
from supervisor_uvicorn.model import Member
from supervisor_uvicorn.roster import Roster
from supervisor_uvicorn.supervisord.board import Board
from supervisor_uvicorn.supervisord.calls import ProcessConfig, ProcessInfo, Supervisord
from supervisor_uvicorn.supervisord.rpc import UNKNOWN_METHOD, Fault, Rpc
from supervisor_uvicorn.verbs.page import BadPage, read_page

_SETTLE_S = 1.0  # for processes that are just starting
_OPTION_WITH_VALUE = "cudlyzejiqa"  # supervisor 4.3.0, options.py ServerOptions.__init__
_NODAEMON = re.compile(rf"-[^-{_OPTION_WITH_VALUE}]*n|--nodaemon")


@dataclass(frozen=True)
class Daemon:
    """supervisord's own process. ``argv`` () and ``environ`` None: not on this machine, or closed to us."""

    pid: int = 0
    argv: tuple[str, ...] = ()
    environ: Mapping[str, str] | None = None
    directory: str = ""
    uid: int | None = None
    no_interface: str = ""

    @property
    def file(self) -> str:
        """Its configuration file: ``-c``, else the first on its search path that exists; "" where that is not known."""
        for at, word in enumerate(self.argv):
            match = re.fullmatch(r"(?:-c|--configuration=?)(.*)", word)
            if match and (match[1] or at + 1 < len(self.argv)):
                file = os.path.join(self.directory, match[1] or self.argv[at + 1])
                return file if os.path.isabs(file) else ""
        if not self.argv or not self.directory:
            return ""
        script = next((word for word in self.argv if word.endswith(("supervisord", "supervisord.py"))), "")
        here = os.path.dirname(os.path.dirname(script))
        beside = [os.path.join(here, "etc/supervisord.conf"), os.path.join(here, "supervisord.conf")]
        paths = (os.path.join(self.directory, path) for path in [*beside, *search_paths()[2:]])
        return next((path for path in paths if os.path.exists(path)), "")

    @property
    def foreground(self) -> bool:
        return any(_NODAEMON.match(word) for word in self.argv[1:])


def daemon(rpc: Rpc) -> Daemon:
    """Who answers. Raises ``RpcError`` where nobody does."""
    try:
        pid = Supervisord(rpc).pid()
    except Fault as fault:
        if fault.code == UNKNOWN_METHOD:
            return Daemon(no_interface=str(fault))
        raise
    try:
        argv = tuple(proc.cmdline(pid))
        if not any("supervisord" in word for word in argv):
            return Daemon(pid)  # another machine's pid, or another namespace's
        uid = proc.status(pid).uid
    except KernelError:
        return Daemon(pid)
    environ, directory = None, ""
    try:
        directory = proc.cwd(pid)
        environ = proc.environ(pid)
    except KernelError:
        pass  # closed to us: then ours stands for it
    return Daemon(pid, argv, environ, directory, uid)


def read(rpc: Rpc, who: Daemon) -> tuple[Running, Configuration]:
    """What runs, and what supervisord tells of its programs as a partial configuration. Raises ``RpcError``."""
    if who.no_interface:
        return Running(rpc.server_url, no_interface=who.no_interface), Configuration("", (), partial=True)
    supervisord, board = Supervisord(rpc), Board(rpc)
    configs, infos = supervisord.configs(), supervisord.processes()
    here = bool(who.argv)
    members = _members(supervisord, infos, configs) if here else {}
    table = _table() if here else {}
    processes = tuple(_process(info, configs.get(info.name), members.get(info.name), table, here) for info in infos)
    note = board.read()
    stale, age_s = False, None if note is None else note.age_s
    if note is not None and note.text:
        try:
            stale = read_page(note).stale
        except BadPage:
            stale = True
    sockets = (board.sockets() or ()) if note is not None else ()
    running = Running(
        url=rpc.server_url,
        pid=who.pid,
        here=here,
        foreground=(who.foreground or None) if here else None,
        board_age_s=age_s,
        board_stale=stale,
        nodelay={one.group: one.nodelay for one in sockets if one.prepared},
        processes=processes,
        sockets=_sockets(who.pid) if here else (),
    )
    return running, _partial(configs, processes)


def _sockets(pid: int) -> tuple[str, ...]:
    try:
        return tuple(name for fd, name in ((1, "/dev/stdout"), (2, "/dev/stderr")) if proc.socket_inode(pid, fd))
    except KernelError:
        return ()


def _table() -> dict[int, Kin]:
    try:
        return proc.process_table()
    except KernelError:
        return {}


def _members(
    supervisord: Supervisord, infos: list[ProcessInfo], configs: Mapping[str, ProcessConfig]
) -> dict[str, Member]:
    roster = Roster(SockDiag())
    until = time.monotonic() + _SETTLE_S
    members = roster.read(infos, configs)
    while roster.unsettled and time.monotonic() < until:
        time.sleep(0.05)
        members = roster.read(supervisord.processes(), configs)
    return {member.name: member for member in members}


def soft_limits(text: str) -> dict[str, int]:
    """The soft limits in ``/proc/PID/limits`` (proc(5)) by their names there; -1 is unlimited.

    >>> soft_limits("Max core file size        0            unlimited      bytes")
    {'Max core file size': 0}
    """
    found = re.findall(r"^(Max [a-z ]+?) {2,}(\d+|unlimited)", text, re.MULTILINE)
    return {name: -1 if value == "unlimited" else int(value) for name, value in found}


@dataclass
class _Seen:
    argv: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None
    capabilities: int = 0
    catches_abort: bool | None = None
    environ: Mapping[str, str] | None = None
    core_limit: int | None = None
    descriptors: tuple[int, int] | None = None
    children: int = 0
    soft: Mapping[str, int] = field(default_factory=dict)
    table: Mapping[int, Kin] = field(default_factory=dict)

    def look(self, pid: int) -> None:
        """Each question by itself: one that is refused leaves the others answered."""
        for question in (self._status, self._argv, self._environ, self._limits, self._descriptors):
            try:
                question(pid)
            except (KernelError, OSError):
                continue
        self.children = len(proc.children(pid, self.table))

    def _argv(self, pid: int) -> None:
        self.argv = tuple(proc.cmdline(pid))

    def _status(self, pid: int) -> None:
        status = proc.status(pid)
        self.uid, self.gid, self.capabilities = status.uid, status.gid, status.capabilities
        self.catches_abort = status.catches(signal.SIGABRT)

    def _environ(self, pid: int) -> None:
        self.environ = proc.environ(pid)

    def _limits(self, pid: int) -> None:
        # Anybody may read these; prlimit(2) takes the same user or CAP_SYS_RESOURCE, which root in a container lacks.
        with open(f"/proc/{pid}/limits", encoding="utf-8") as file:
            self.soft = soft_limits(file.read())
        self.core_limit = self.soft.get("Max core file size")

    def _descriptors(self, pid: int) -> None:
        soft = self.soft.get("Max open files", -1)
        if soft >= 0:
            self.descriptors = (len(proc.descriptors(pid)), soft)


def _process(
    info: ProcessInfo, config: ProcessConfig | None, member: Member | None, table: Mapping[int, Kin], here: bool
) -> Process:
    seen = _Seen(table=table)
    if here and info.pid:
        seen.look(info.pid)
    command = config.command if config else ""
    serves = member is not None and member.socket is not None and not member.not_watched
    return Process(
        name=info.name,
        state=info.state,
        pid=info.pid,
        command=command,
        argv=seen.argv,
        uvicorn=member is not None,
        listener=is_listener(command) or is_listener(" ".join(seen.argv)),
        not_watched=member.not_watched if member else "",
        uid=seen.uid,
        gid=seen.gid,
        capabilities=seen.capabilities,
        environ=seen.environ,
        # Before it serves it may not have come as far as to install its handlers.
        catches_abort=seen.catches_abort if serves else None,
        core_limit=seen.core_limit,
        descriptors=seen.descriptors,
        children=seen.children,
        killasgroup=config.killasgroup if config else True,
        stderr_log=info.stderr_logfile if info.stderr_logfile.startswith("/") else "",
        spawnerr=info.spawnerr,
    )


def live(runs: Running) -> dict[str, Live]:
    """By group, what one uvicorn of it was started with."""
    return {
        one.name.partition(":")[0]: Live(shlex.join(one.argv), one.environ or {})
        for one in runs.processes
        if one.uvicorn and one.argv and not one.not_watched
    }


_SIGNALS = {one.value: one.name.removeprefix("SIG") for one in signal.Signals}


def _partial(configs: Mapping[str, ProcessConfig], processes: tuple[Process, ...]) -> Configuration:
    """What supervisord tells of its programs as sections; what it does not tell is set to what is no trap."""
    sections: dict[str, Section] = {}
    environs = {one.name: one.environ for one in processes}
    for name, config in configs.items():
        group = name.partition(":")[0]
        if group in {section.title for section in sections.values()}:
            continue
        autorestart = config.autorestart
        values = {
            "command": config.command,
            "startsecs": f"{config.startsecs:g}",
            "stopwaitsecs": f"{config.stopwaitsecs:g}",
            "stopsignal": _SIGNALS.get(config.stopsignal, "TERM"),
            "killasgroup": str(config.killasgroup).lower(),
            "autorestart": "true" if autorestart is None else str(autorestart).lower(),
        }
        environ = environs.get(name) or {}
        if text := ",".join(f'{key}="{value}"' for key, value in environ.items() if key.startswith(_TELLING)):
            values["environment"] = text
        kind = "eventlistener" if is_listener(config.command) else "program"
        title = f"{kind}:{group}"
        sections[title] = Section(title, values={key: Value(text, text) for key, text in values.items()})
    return Configuration("", tuple(sections.values()), partial=True)


_TELLING = ("UVICORN_", "WEB_CONCURRENCY", "PYTHONFAULTHANDLER", "PYTHONDEVMODE")
