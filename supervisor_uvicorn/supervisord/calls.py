"""The calls of supervisord that we make, with types (supervisor 4.3.0 and 4.2.5, rpcinterface.py).

A key that an answer lacks is no error: another version may call it otherwise, and a listener that dies of it helps
nobody. What is missing has the value that supervisord itself takes for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from supervisor_uvicorn.model import State
from supervisor_uvicorn.supervisord.rpc import BadAnswer, Rpc

_MOST_S = 1e9  # thirty years

# supervisor 4.3.0, states.py ``ProcessStates``
_STATES = {
    0: State.STOPPED,
    10: State.STARTING,
    20: State.RUNNING,
    30: State.BACKOFF,
    40: State.STOPPING,
    100: State.EXITED,
    200: State.FATAL,
    1000: State.UNKNOWN,
}


# What we keep of each answer, which is what _process and _config read:
_OF_ALL = frozenset({"name", "group", "stderr_logfile", "stdout_logfile"})
_OF_A_PROCESS = _OF_ALL | {"state", "statename", "pid", "start", "exitstatus", "spawnerr", "now"}
_OF_A_CONFIG = _OF_ALL | {
    "command",
    "stopwaitsecs",
    "startsecs",
    "killasgroup",
    "stopsignal",
    "startretries",
    "autorestart",
    "uid",
}


@dataclass(frozen=True)
class ProcessInfo:
    """``getProcessInfo``. ``start`` and ``now`` are whole seconds of supervisord's wall clock; ``pid`` 0 is no process.

    ``exitstatus`` is -1 after any signal (supervisor 4.3.0, options.py ``decode_wait_status``). The log files are
    paths, or "" for none.
    """

    name: str  # group:name
    state: State
    pid: int = 0
    start: int = 0
    exitstatus: int = 0
    spawnerr: str = ""
    stderr_logfile: str = ""
    stdout_logfile: str = ""
    now: int = 0


@dataclass(frozen=True)
class ProcessConfig:
    """One process of ``getAllConfigInfo``: the file as it was last *read*, which may be newer than what runs.

    ``autorestart`` is None before supervisor 4.4, which does not tell. ``uid`` is None where no ``user=`` is set. The
    log files are paths, "" for none, and "auto" for one that is named when the process is first started.
    """

    name: str  # group:name
    command: str = ""
    stopwaitsecs: float = 10.0
    startsecs: float = 1.0
    killasgroup: bool = False
    stopsignal: int = 15
    startretries: int = 3
    autorestart: bool | str | None = None
    uid: int | None = None
    stderr_logfile: str = ""
    stdout_logfile: str = ""


class Supervisord:
    """supervisord behind an :class:`Rpc`. Each method raises what ``Rpc.call`` raises.

    What only reads may be sent twice (over a kept connection that was dead); what acts is sent once.
    """

    def __init__(self, rpc: Rpc) -> None:
        self.rpc = rpc

    def processes(self) -> list[ProcessInfo]:
        """All processes, in supervisord's order (``getAllProcessInfo``)."""
        answer = self.rpc.call("supervisor.getAllProcessInfo", idempotent=True, only=_OF_A_PROCESS)
        return [_process(struct) for struct in _structs(answer, "getAllProcessInfo")]

    def process(self, name: str) -> ProcessInfo:
        """One process by its ``group:name``; a :class:`Fault` BAD_NAME where there is none (``getProcessInfo``)."""
        answer = self.rpc.call("supervisor.getProcessInfo", name, idempotent=True)
        return _process(_structs([answer], "getProcessInfo")[0])

    def configs(self) -> dict[str, ProcessConfig]:
        """The configuration of every process by its ``group:name`` (``getAllConfigInfo``)."""
        answer = self.rpc.call("supervisor.getAllConfigInfo", idempotent=True, only=_OF_A_CONFIG)
        configs = [_config(struct) for struct in _structs(answer, "getAllConfigInfo")]
        return {config.name: config for config in configs}

    def signal(self, name: str, signal: str) -> None:
        """Send ``signal`` ("ABRT") to one pid, never to its group (``signalProcess``). Sent once, never again."""
        self.rpc.call("supervisor.signalProcess", name, signal)

    def start(self, name: str) -> None:
        """Start a process and do not wait (``startProcess``). Sent once.

        In state STOPPING supervisord answers well and does nothing; ask for the state before and afterwards.
        """
        self.rpc.call("supervisor.startProcess", name, False)

    def state(self) -> str:
        """supervisord's own: RUNNING, RESTARTING, SHUTDOWN, FATAL. While it shuts down it is a SHUTDOWN_STATE fault."""
        (struct,) = _structs([self.rpc.call("supervisor.getState", idempotent=True)], "getState")
        return str(struct.get("statename", ""))

    def pid(self) -> int:
        """supervisord's own process id (``getPID``)."""
        return _int(self.rpc.call("supervisor.getPID", idempotent=True))

    def send_remote_comm(self, kind: str, data: str) -> None:
        """Send a REMOTE_COMMUNICATION event to every listener that subscribes (``sendRemoteCommEvent``). Sent once."""
        self.rpc.call("supervisor.sendRemoteCommEvent", kind, data)


def _structs(answer: Any, method: str) -> list[Mapping[str, Any]]:
    if not isinstance(answer, list) or not all(isinstance(one, dict) for one in answer):
        raise BadAnswer(f"the answer to supervisor.{method} has not the shape that supervisor 4 gives it")
    return answer


def _name(struct: Mapping[str, Any]) -> str:
    name = str(struct.get("name", ""))
    return f"{struct.get('group') or name}:{name}"


def _process(struct: Mapping[str, Any]) -> ProcessInfo:
    try:
        state = State(struct.get("statename"))
    except ValueError:
        state = _STATES.get(_int(struct.get("state"), -1), State.UNKNOWN)
    return ProcessInfo(
        name=_name(struct),
        state=state,
        pid=_int(struct.get("pid")),
        start=_int(struct.get("start")),
        exitstatus=_int(struct.get("exitstatus")),
        spawnerr=str(struct.get("spawnerr") or ""),
        stderr_logfile=str(struct.get("stderr_logfile") or ""),
        stdout_logfile=str(struct.get("stdout_logfile") or ""),
        now=_int(struct.get("now")),
    )


def _config(struct: Mapping[str, Any]) -> ProcessConfig:
    autorestart = struct.get("autorestart")
    uid = struct.get("uid")
    return ProcessConfig(
        name=_name(struct),
        command=str(struct.get("command") or ""),
        stopwaitsecs=_float(struct.get("stopwaitsecs"), 10.0),
        startsecs=_float(struct.get("startsecs"), 1.0),
        killasgroup=bool(struct.get("killasgroup", False)),
        stopsignal=_int(struct.get("stopsignal"), 15),
        startretries=_int(struct.get("startretries"), 3),
        autorestart=autorestart if isinstance(autorestart, bool | str) else None,
        uid=uid if isinstance(uid, int) else None,  # "none" without a user=
        stderr_logfile=_logfile(struct.get("stderr_logfile")),
        stdout_logfile=_logfile(struct.get("stdout_logfile")),
    )


def _logfile(value: Any) -> str:
    return "" if value in (None, "none") else str(value)


def _int(value: Any, otherwise: int = 0) -> int:
    return value if isinstance(value, int) else otherwise


def _float(value: Any, otherwise: float) -> float:
    # An integer of XML-RPC may be larger than a float can be, a double infinite or NaN.
    return float(value) if isinstance(value, int | float) and abs(value) <= _MOST_S else otherwise
