"""Runs inside supervisord, as an rpcinterface of its own: how long each turn of its main loop takes, and what for.

supervisord has one thread (supervisor 4.3.0, supervisord.py ``runforever``): it waits in ``poller.poll``, and whatever
it does between one wait and the next holds up everybody else. That is what is measured here, by wrapping ``poll``.
"""

from __future__ import annotations

import array
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supervisor import events
from supervisor.xmlrpc import supervisor_xmlrpc_handler

SECTION = """
[rpcinterface:loop_clock]
supervisor.rpcinterface_factory = harness.loop_clock:make
"""
PATH = str(Path(__file__).resolve().parents[1])  # for PYTHONPATH

OURS = "supervisor_uvicorn"


class _Turns:
    """By the XML-RPC methods that ran in it, joined by "+" ("": none), each turn: seconds of wall clock, and of CPU;
    and under "event ..." the same of each call of a callback of ours.

    A full run of Python's garbage collector takes supervisord some 10 ms, whoever's turn it comes in: such a turn has
    "gc" among its names. All is kept in arrays, which are no business of the collector: it would run all the time.
    """

    def __init__(self) -> None:
        self.found: dict[str, tuple[array.array[float], array.array[float]]] = {}
        self._names: set[str] = set()
        self._began: tuple[float, float] | None = None

    def name(self, what: str) -> None:
        self._names.add(what)

    def add(self, what: str, began: tuple[float, float]) -> None:
        wall_s, cpu_s = time.perf_counter() - began[0], time.thread_time() - began[1]
        walls, cpus = self.found.setdefault(what, (array.array("d"), array.array("d")))
        walls.append(wall_s)
        cpus.append(cpu_s)

    def around_poll(self, poll: Callable[[float], Any]) -> Callable[[float], Any]:
        def timed(timeout: float) -> Any:
            if self._began is not None:
                self.add("+".join(sorted(self._names)), self._began)
            found = poll(timeout)
            self._names.clear()
            self._began = _now()
            return found

        return timed

    def collected(self, phase: str, info: dict[str, int]) -> None:
        """For ``gc.callbacks``."""
        if phase == "stop" and info["generation"] == 2:
            self.name("gc")


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.thread_time()


class _Interface:
    def __init__(self, turns: _Turns) -> None:
        self._turns = turns

    def begin(self) -> bool:
        """Forget what was measured."""
        self._turns.found.clear()
        return True

    def turns(self) -> str:
        """What was measured, as JSON."""
        found = self._turns.found
        return json.dumps({what: list(zip(walls, cpus, strict=True)) for what, (walls, cpus) in found.items()})


def make(supervisord: Any, **_: str) -> _Interface:
    turns = _Turns()
    gc.callbacks.append(turns.collected)
    supervisord.options.poller.poll = turns.around_poll(supervisord.options.poller.poll)
    call = supervisor_xmlrpc_handler.call

    def named(self: Any, method: str, params: Any) -> Any:
        turns.name(method)
        return call(self, method, params)

    supervisor_xmlrpc_handler.call = named
    events.callbacks[:] = [(kind, _timed_callback(turns, callback)) for kind, callback in events.callbacks]
    return _Interface(turns)


def _timed_callback(turns: _Turns, callback: Callable[[Any], None]) -> Callable[[Any], None]:
    if not getattr(callback, "__module__", "").startswith(OURS):
        return callback

    def timed(event: Any) -> None:
        began = _now()
        callback(event)
        turns.add(f"event {type(event).__name__}", began)

    return timed
