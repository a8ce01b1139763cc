"""What a check is given: a configuration, a running supervisord, this machine; and how a check reports. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from supervisor_uvicorn.doctor.configuration import Configuration, Program, Section, Value
from supervisor_uvicorn.doctor.findings import Finding, Trap
from supervisor_uvicorn.doctor.masked import masked
from supervisor_uvicorn.model import State
from supervisor_uvicorn.settings import ListenSettings


@dataclass(frozen=True)
class User:
    """A user of this machine: ``gids`` are all of its groups, its own first."""

    uid: int
    gids: tuple[int, ...]


@dataclass(frozen=True)
class Interpreter:
    """A Python, known by its files alone. ``packages``: distribution (lower case) -> version, as far as asked."""

    python: str
    version: tuple[int, int] | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    has_pkg_resources: bool = True


@dataclass(frozen=True)
class Machine:
    """What the machine adds to a configuration. A user's name that is not there is not in ``users``."""

    container: bool = False
    hidepid: bool = False  # /proc shows other users' processes to nobody but root (proc(5))
    own_uid: int = 0
    users: Mapping[str, User] = field(default_factory=dict)  # by the text of user= and chown=
    groups: Mapping[str, int] = field(default_factory=dict)
    interpreters: Mapping[str, Interpreter] = field(default_factory=dict)  # by section; "supervisord" is its own
    not_importable: Mapping[str, str] = field(default_factory=dict)  # plugin's section -> what is missing, and where
    settings: ListenSettings | None = None  # of the listener, where they can be read
    wrong_settings: tuple[tuple[str, str], ...] = ()  # listener's section, message


@dataclass(frozen=True)
class Process:
    """One process of a running supervisord. ``None`` is: not known."""

    name: str  # group:name
    state: State
    pid: int = 0
    command: str = ""  # as supervisord has it
    argv: tuple[str, ...] = ()  # as it runs
    uvicorn: bool = False
    listener: bool = False
    not_watched: str = ""  # a tree, in the roster's words
    uid: int | None = None
    gid: int | None = None
    capabilities: int = 0
    environ: Mapping[str, str] | None = None
    catches_abort: bool | None = None
    core_limit: int | None = None  # bytes, -1 unlimited
    descriptors: tuple[int, int] | None = None  # open, soft limit
    children: int = 0
    killasgroup: bool = True
    stderr_log: str = ""
    spawnerr: str = ""


@dataclass(frozen=True)
class Running:
    """A supervisord that answered. ``board_age_s``: None without our rpcinterface, infinite before any report."""

    url: str
    pid: int = 0
    here: bool = False  # its processes are on this machine and shown to us
    foreground: bool | None = None  # started with -n
    no_interface: str = ""  # the fault, where it has no [rpcinterface:supervisor]
    board_age_s: float | None = None
    board_stale: bool = False
    nodelay: Mapping[str, bool] = field(default_factory=dict)  # group -> TCP_NODELAY is set on its socket
    processes: tuple[Process, ...] = ()
    sockets: tuple[str, ...] = ()  # of /dev/stdout and /dev/stderr, those that are a socket in supervisord


@dataclass(frozen=True)
class Site:
    """Everything there is to look at; at least one of ``configuration`` and ``running``."""

    configuration: Configuration | None = None
    running: Running | None = None
    machine: Machine = field(default_factory=Machine)

    def live(self, group: str) -> list[Process]:
        """The uvicorn processes of ``group`` that run on this machine."""
        if self.running is None:
            return []
        return [one for one in self.running.processes if one.pid and one.uvicorn and one.name.split(":")[0] == group]


Check = Callable[[Site], Iterable[Finding]]


def at(trap: Trap, section: Section, key: str = "", found: str = "", write: str = "", detail: str = "") -> Finding:
    """``trap`` in ``section``, at the line of ``key`` where that is written there; else ``found`` says what is not."""
    value = section.values.get(key)
    words = found or (_words(key, value, section) if value else f"no {key}=" if key else f"[{section.name}]")
    if value is not None:
        return Finding(trap, words, value.file, section.name, value.line, write, detail)
    return Finding(trap, words, section.file, section.name, section.line, write, detail)


def _words(key: str, value: Value, section: Section) -> str:
    """As they are written, but for passwords and values of variables: this may go into the log of a build."""
    if key == "environment":
        return f"environment={','.join(f'{name}=...' for name in section.environment())}"
    return f"{key}={masked(value.written) if key == 'command' else value.written}"


def where_option(program: Program, option: str) -> tuple[str, str]:
    """The key under which uvicorn's option stands, and its words: in the command, or in ``environment=``."""
    flag = f"--{option}"
    for index, word in enumerate(program.command.args):
        if word == flag:
            return "command", " ".join(program.command.args[index : index + 2])
        if word.startswith(flag + "="):
            return "command", word
    name = "UVICORN_" + option.replace("-", "_").upper()
    return "environment", f"{name}={program.environ.get(name, '')}"
