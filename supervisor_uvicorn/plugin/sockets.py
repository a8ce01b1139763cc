"""The sockets that supervisord opens for ``[fcgi-program]``s: TCP_NODELAY on them, and one kept open for a restart.

**TCP_NODELAY.** uvicorn opens an inherited descriptor as ``AF_UNIX`` (uvicorn 0.30 to 0.54, server.py), so no event
loop sets the option, and each keep-alive answer waits 44 ms for a delayed ACK. Accepted sockets inherit it from the
listening one (tcp(7)). supervisord has that one open before a process becomes STARTING (supervisor 4.3.0, process.py
``FastCGISubprocess.spawn``), so it is set there, each time: a socket made anew is seen at the first start.

**Holds.** supervisord counts one reference per live process and closes the socket with the last one (supervisor 4.3.0,
socket_manager.py ``ReferenceCounter``): who waits in its backlog is reset, who comes is refused, and where a forked
helper still has the socket, to bind it anew fails and ends supervisord. While a restart of ours is under way one more
reference is held. A hold never *opens* a socket, ends by itself at its deadline, and ends with an operator's word:

=================================================  ==================================================================
an event in supervisord                            the hold
=================================================  ==================================================================
STOPPING or STOPPED, and nobody is left that       let go: the program is stopped, and clients are to be refused. FATAL
runs, starts, or exited since it was taken         is no longer coming back, and cannot be stopped. Signals never lead
                                                   here: they end in EXITED
STOPPING or STOPPED of one of several              stays: the others serve, or are coming back
EXITED, BACKOFF, STARTING, FATAL                   stays: that is what it is for, until its deadline
the group is removed (`update`, `remove`)          let go, before the same group is added anew
supervisord stops or reloads                       all let go
TICK                                               let go where the deadline has passed
=================================================  ==================================================================
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

from supervisor import events
from supervisor.states import ProcessStates, SupervisorStates
from supervisor.xmlrpc import Faults, RPCError

MAX_HOLD_S = 3600.0

_ALIVE = (ProcessStates.STARTING, ProcessStates.RUNNING, ProcessStates.BACKOFF)


class _Hold:
    def __init__(self, reference: Any, until: float) -> None:
        self.reference = reference  # supervisor's Proxy: the count goes down when this object goes
        self.until = until
        self.went_down: set[str] = set()  # processes that ended since, so by us or by themselves


class Sockets:
    """Follows the events of one supervisord. ``log`` takes one line; ``clock`` is :func:`time.monotonic`."""

    def __init__(
        self,
        supervisord: Any,
        log: Callable[[str], None],
        *,
        nodelay: bool = True,
        keep_socket: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supervisord = supervisord
        self._log = log
        self._nodelay = nodelay
        self._keep_socket = keep_socket
        self._clock = clock
        self._holds: dict[str, _Hold] = {}

    def subscribe(self) -> None:
        """Hear supervisord's events. It forgets all subscribers at each `reload` (supervisord.py ``run``)."""
        for kind, callback in (
            (events.ProcessStateEvent, self._on_process_state),
            (events.ProcessGroupRemovedEvent, self._on_group_removed),
            (events.SupervisorStoppingEvent, self._on_stopping),
            (events.TickEvent, self._on_tick),
        ):
            events.subscribe(kind, self._guarded(callback))

    def hold(self, group_name: str, seconds: float) -> None:
        """Keep the socket of this group open for at most ``seconds``; a second hold can only make it longer.

        Raises RPCError: BAD_NAME for a group that is not there or has no shared socket, INCORRECT_PARAMETERS for
        ``seconds`` not above 0 or beyond :data:`MAX_HOLD_S`, SHUTDOWN_STATE, FAILED where there is nothing to hold.
        """
        if not self._keep_socket:
            raise RPCError(Faults.FAILED, "keep_socket is off in the [rpcinterface:...] section of supervisor-uvicorn")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= MAX_HOLD_S:
            raise RPCError(Faults.INCORRECT_PARAMETERS, f"seconds is {seconds!r}; write a number up to {MAX_HOLD_S:g}")
        if self._supervisord.options.mood < SupervisorStates.RUNNING:
            raise RPCError(Faults.SHUTDOWN_STATE)
        group = self._supervisord.process_groups.get(group_name)
        if group is None:
            raise RPCError(Faults.BAD_NAME, f"{group_name}: there is no such group")
        manager = getattr(group, "socket_manager", None)
        if manager is None:
            raise RPCError(Faults.BAD_NAME, f"{group_name} has no shared socket: it is no [fcgi-program]")
        until = self._clock() + seconds
        hold = self._holds.get(group_name)
        if hold is not None:
            hold.until = max(hold.until, until)
            return
        # get_socket() would open a closed socket: bind may fail, and a stopped program would listen.
        if not manager.is_prepared():
            raise RPCError(Faults.FAILED, f"the socket of {group_name} is not open: no process of it lives")
        if not _wanted(group, set()):
            raise RPCError(Faults.FAILED, f"{group_name} is stopped, so its socket is left to close")
        self._holds[group_name] = _Hold(manager.get_socket(), until)

    def release(self, group_name: str) -> bool:
        """Let the socket go; False where it was not held."""
        # The reference goes with the object, here and now: nothing else refers to it.
        return self._holds.pop(group_name, None) is not None

    def expire(self) -> None:
        """Let go what is past its deadline."""
        now = self._clock()
        for name in [name for name, hold in self._holds.items() if hold.until <= now]:
            self._log(f"the socket of {name} is no longer kept open: its deadline has passed")
            self.release(name)

    def structs(self) -> list[dict[str, Any]]:
        """One struct for each shared socket; see ``getSockets`` in the RPC interface for its keys."""
        groups = sorted(self._supervisord.process_groups.items())
        return [self._struct(name, group) for name, group in groups if hasattr(group, "socket_manager")]

    # -- events: in supervisord's main loop

    def _on_process_state(self, event: Any) -> None:
        process = event.process
        group = process.group
        if group is None or not hasattr(group, "socket_manager"):
            return
        if self._nodelay and isinstance(event, events.ProcessStateStartingEvent):
            _set_nodelay(group.socket_manager)
        name = group.config.name
        hold = self._holds.get(name)
        if hold is None:
            return
        if isinstance(event, events.ProcessStateExitedEvent):
            hold.went_down.add(process.config.name)
        elif isinstance(event, events.ProcessStateStoppingEvent | events.ProcessStateStoppedEvent):
            hold.went_down.discard(process.config.name)
            if not _wanted(group, hold.went_down):
                del hold  # it would keep the reference
                self.release(name)

    def _on_group_removed(self, event: Any) -> None:
        self.release(event.group)

    def _on_stopping(self, _: Any) -> None:
        self._holds.clear()

    def _on_tick(self, _: Any) -> None:
        self.expire()

    def _guarded(self, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        """An exception out of a subscriber ends supervisord (events.py ``notify`` guards nothing)."""

        def guarded(event: Any) -> None:
            try:
                callback(event)
            except Exception as error:  # noqa: BLE001 - whatever it is, the site must live
                self._log(f"{type(event).__name__} was not acted on: {type(error).__name__}: {error}")

        return guarded

    def _struct(self, name: str, group: Any) -> dict[str, Any]:
        manager = group.socket_manager
        prepared = bool(manager.is_prepared())
        hold = self._holds.get(name)
        return {
            "group": name,
            "url": manager.config().url,
            "backlog": manager.config().get_backlog() or socket.SOMAXCONN,
            "refcount": manager.get_socket_ref_count() if prepared else 0,
            "prepared": prepared,
            "fd": manager.socket.fileno() if prepared else -1,
            "nodelay": prepared and _has_nodelay(manager.socket),
            "held_s": max(0.0, hold.until - self._clock()) if hold else 0.0,
        }


def _wanted(group: Any, went_down: set[str]) -> bool:
    """Whether a process of it lives, starts, or is one of ``went_down`` that comes back: not one that is FATAL."""
    exited = ProcessStates.EXITED
    return any(
        process.get_state() in _ALIVE or (process.config.name in went_down and process.get_state() == exited)
        for process in group.processes.values()
    )


def _is_tcp(sock: Any) -> bool:
    return sock.family in (socket.AF_INET, socket.AF_INET6)


def _set_nodelay(manager: Any) -> None:
    if manager.is_prepared() and _is_tcp(manager.socket):
        manager.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _has_nodelay(sock: Any) -> bool:
    return _is_tcp(sock) and bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
