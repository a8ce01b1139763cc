"""``[rpcinterface:uvicorn]``: what a listener cannot do from outside of supervisord, as XML-RPC methods.

It runs on supervisord's only thread, which also reaps, restarts and answers everybody: every method ends within
microseconds, waits for nothing and reads no file. It never keeps supervisord from starting (an exception in a factory
would: supervisor 4.3.0, http.py ``make_http_servers``): a setting that is not understood is said in one line of
supervisord's log, and the part that it belongs to stays off.

supervisord calls the factory once for each HTTP server, and again after each `reload`, with a new Supervisor object.
So sockets and subscriptions belong to that object, one set for all servers; see :mod:`supervisor_uvicorn.plugin.memory`
for what survives a `reload`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from supervisor.datatypes import signal_number
from supervisor.states import ProcessStates, SupervisorStates, getProcessStateDescription
from supervisor.xmlrpc import Faults, RPCError

from supervisor_uvicorn.plugin.exit_code import ExitCode
from supervisor_uvicorn.plugin.memory import MEMORY, Memory
from supervisor_uvicorn.plugin.sockets import Sockets

# Raised by one when a method takes or gives something else, so that a newer listener knows an older plugin: that one
# stays in memory until supervisord itself is restarted.
INTERFACE_VERSION = 1

# A fault of our own: a worker is not the one that the caller means. supervisor's own end at 91.
DIFFERS = 231

_ATTRIBUTE = "_supervisor_uvicorn"
_ON = ("true", "yes", "on", "1")
_OFF = ("false", "no", "off", "0")
_SETTINGS = {
    "tcp_nodelay": "TCP_NODELAY is not set on any socket",
    "keep_socket": "no socket is kept open during a restart",
}

_P = ParamSpec("_P")
_R = TypeVar("_R")


class _Plugin(NamedTuple):
    """All that there is once for a supervisord."""

    supervisord: Any
    sockets: Sockets
    memory: Memory
    exit_code: ExitCode
    log: Callable[[str], None]


def make_rpcinterface(supervisord: Any, /, **settings: str) -> RpcInterface:
    """The factory for ``supervisor.rpcinterface_factory``; ``settings`` are the other keys of our section.

    Of several such sections for one supervisord the first one's settings hold. Raises nothing.
    """
    plugin = getattr(supervisord, _ATTRIBUTE, None)
    if plugin is None:
        log = functools.partial(_log, supervisord)
        sockets = Sockets(
            supervisord,
            log,
            nodelay=_switch(settings, "tcp_nodelay", log),
            keep_socket=_switch(settings, "keep_socket", log),
        )
        for key in sorted(set(settings) - set(_SETTINGS)):
            log(f"there is no setting {key}, so {key}={settings[key]} does nothing; there are {', '.join(_SETTINGS)}")
        sockets.subscribe()
        exit_code = ExitCode(supervisord, log)
        exit_code.subscribe()
        plugin = _Plugin(supervisord, sockets, MEMORY, exit_code, log)
        setattr(supervisord, _ATTRIBUTE, plugin)
    return RpcInterface(plugin)


def _log(supervisord: Any, line: str) -> None:
    supervisord.options.logger.warn(f"supervisor-uvicorn: {line}")


def _switch(settings: dict[str, str], key: str, log: Callable[[str], None]) -> bool:
    value = settings.get(key, "true").strip().lower()
    if value in _ON or value in _OFF:
        return value in _ON
    log(f"{key}={settings[key]} is not understood, so {_SETTINGS[key]}; write {key}=true or {key}=false")
    return False


def _method(
    function: Callable[Concatenate[RpcInterface, _P], _R],
) -> Callable[Concatenate[RpcInterface, _P], _R]:
    """What every RPC method does first, and an unforeseen error as a fault instead of an HTTP 500."""

    @functools.wraps(function)
    def method(self: RpcInterface, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            self._plugin.sockets.expire()
            return function(self, *args, **kwargs)
        except (RPCError, TypeError):  # supervisord makes INCORRECT_PARAMETERS of the second
            raise
        except Exception as error:
            self._plugin.log(f"{function.__name__} failed: {type(error).__name__}: {error}")
            raise RPCError(Faults.FAILED, f"{type(error).__name__}: {error}") from error

    return method


class RpcInterface:
    """The namespace of the section's name. Its docstrings are what ``system.methodHelp`` shows."""

    def __init__(self, plugin: _Plugin) -> None:
        self._plugin = plugin

    @_method
    def getInterfaceVersion(self) -> int:  # noqa: N802 - supervisor's own style of method names
        """The version of these methods, which rises when one takes or gives something else

        @return int  version
        """
        return INTERFACE_VERSION

    # -- the board and the cells

    @_method
    def report(self, text: str) -> bool:
        """Replace the health board by one string, which is not looked into

        @param string text  JSON by custom, at most 1 MiB
        @return boolean     Always True, or the fault INCORRECT_PARAMETERS
        """
        self._plugin.memory.report(text)
        return True

    @_method
    def board(self) -> dict[str, Any]:
        """What was last reported

        @return struct  text, age_s (seconds; -1.0: nothing was reported), at (seconds since 1970)
        """
        return self._plugin.memory.board()

    @_method
    def keep(self, key: str, text: str) -> bool:
        """Replace one named cell; it outlives the listener and a reload, not supervisord

        @param string key   1 to 200 characters, at most 64 keys
        @param string text  At most 1 MiB, all cells together 4 MiB; an empty text empties the cell
        @return boolean     Always True, or the fault INCORRECT_PARAMETERS
        """
        self._plugin.memory.keep(key, text)
        return True

    @_method
    def kept(self, key: str) -> dict[str, Any]:
        """One named cell

        @param string key  Its name
        @return struct     text, age_s (seconds; -1.0: nothing is kept), at (seconds since 1970)
        """
        return self._plugin.memory.kept(key)

    # -- sockets

    @_method
    def getSockets(self) -> list[dict[str, Any]]:  # noqa: N802
        """The sockets that supervisord shares among the processes of an fcgi-program

        @return array  structs of group, url, backlog, refcount (processes and a hold), prepared (it is open), fd
                       (supervisord's own; -1: closed), nodelay (TCP_NODELAY), held_s (seconds left of a hold)
        """
        return self._plugin.sockets.structs()

    @_method
    def hold(self, group: str, seconds: float) -> bool:
        """Keep the open socket of a group open while its processes are replaced; again to make it longer

        @param string group    The group
        @param double seconds  At most 3600; it is let go by itself at most 6 seconds later
        @return boolean        Always True, or a fault: BAD_NAME, FAILED (it is stopped), INCORRECT_PARAMETERS
        """
        self._plugin.sockets.hold(group, seconds)
        return True

    @_method
    def release(self, group: str) -> bool:
        """Let go the socket of a group

        @param string group  The group
        @return boolean      False where it was not held
        """
        return self._plugin.sockets.release(group)

    # -- workers

    @_method
    def signalWorker(self, name: str, pid: int, start: int, signal: str) -> bool:  # noqa: N802
        """Signal a process only if it is RUNNING and still the one that is meant

        @param string name    group:name
        @param int pid        Its pid
        @param int start      Its start, as in getProcessInfo
        @param string signal  Signal to send, as name ('KILL') or number ('9')
        @return boolean       Always True, or a fault: NOT_RUNNING, 231 (another pid or start), BAD_NAME, BAD_SIGNAL
        """
        supervisord = self._plugin.supervisord
        if supervisord.options.mood < SupervisorStates.RUNNING:
            raise RPCError(Faults.SHUTDOWN_STATE)
        process = _find(supervisord, name)
        try:
            number = signal_number(signal)
        except ValueError:
            raise RPCError(Faults.BAD_SIGNAL, signal) from None
        state = process.get_state()
        if state != ProcessStates.RUNNING:
            raise RPCError(Faults.NOT_RUNNING, f"{name} is {getProcessStateDescription(state)}; nothing was sent")
        if process.pid != pid:
            raise _differs(f"{name} has pid {process.pid}, not {pid}; nothing was sent")
        if int(process.laststart) != start:
            raise _differs(f"{name} was started at {int(process.laststart)}, not at {start}; nothing was sent")
        problem = process.signal(number)
        if problem is not None:
            raise RPCError(Faults.FAILED, problem)
        return True

    # -- supervisord's own end

    @_method
    def exitCode(self, code: int) -> bool:  # noqa: N802
        """The exit code of supervisord's process, for a shutdown that is asked for within 5 seconds and for no other

        @param int code  1 to 255; 0 forgets what was asked for
        @return boolean  Always True, or a fault: SHUTDOWN_STATE (too late), INCORRECT_PARAMETERS
        """
        self._plugin.exit_code.ask(code)
        return True


def _find(supervisord: Any, name: str) -> Any:
    """The process of ``group:name`` (or of a bare name, for a group of the same name); raises RPCError BAD_NAME."""
    group_name, _, process_name = name.partition(":")
    group = supervisord.process_groups.get(group_name)
    process = group.processes.get(process_name or group_name) if group is not None else None
    if process is None:
        raise RPCError(Faults.BAD_NAME, name)
    return process


def _differs(text: str) -> Any:
    fault = RPCError(DIFFERS)
    fault.text = f"DIFFERS: {text}"  # supervisor has no word for a code that it does not know
    return fault
