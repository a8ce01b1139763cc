"""A bare ASGI application that can be told to be sick in every way that the tests need.

One worker is made sick by a request that lands on it (see ``harness.client``). The state is the process' own, so a
replaced worker is well again. No framework, and nothing of uvicorn's that 0.30 does not have.

Paths (answers are JSON with the ``pid`` that gave them):

``/pid``           which worker is this
``/health``        as ``/set?health=...`` says: ``ok``, ``500``, ``404``, ``slow:SECONDS``, ``endless``, ``drip``,
                   ``flood``, ``close``, ``garbage``, or ``db`` (ask the database); for all workers at once by the file
                   ``health`` in ``FAULTY_DIR``, or by ``health.NAME`` for one, whatever its pid
``/set?health=M``  set this worker's health
``/hang/KIND``     for ever, answering nothing: ``sleep``, ``spin``, ``lock``, ``read``, ``gil``
``/block?s=N``     block the event loop for N seconds once, then answer
``/wait?s=N``      answer after N seconds; the loop turns
``/lag?s=N``       N seconds long block for 50 ms at a time
``/db``            ask the database, with a driver that blocks
``/stream``        a line a tenth of a second, for ever
``/pool``          start a process pool of two (fork), answer their pids
``/mp-pool``       the same with a multiprocessing.Pool, which starts a new process for each that ends
``/fork``          start one forked helper that only sleeps, answer its pid
``/leak?mb=N``     keep so much more memory, every page of it touched
``/open?n=N``      keep so many more descriptors open
``/block-at?s=N``  as ``/block``, and answer when it began and ended, by the monotonic clock

Start-up, by environment: ``FAULTY_START`` for every worker; or by files in ``FAULTY_DIR``: ``next-start``, which only
the next starting worker takes, or ``start.NAME`` for each start of that worker: ``hang`` (await for ever), ``block``
(block for ever), ``slow:SECONDS``, ``blocked:SECONDS`` (as slow, without turning the loop), ``hang-after`` (block as
soon as it serves), ``fail``. ``FAULTY_DB=host:port``: start-up asks the database too, for ever or for
``FAULTY_DB_PATIENCE_S``, after which it fails. ``FAULTY_LEAK_BYTES``: every request leaves so much behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import multiprocessing
import multiprocessing.pool
import os
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

FOR_EVER_S = 3600.0
NAME = os.environ.get("SUPERVISOR_PROCESS_NAME", "")

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_health = "ok"
_pool: ProcessPoolExecutor | None = None
_mp_pool: multiprocessing.pool.Pool | None = None
_kept: list[bytes] = []
_open: list[int] = []
_leak_bytes = int(os.environ.get("FAULTY_LEAK_BYTES", "0"))


async def app(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "http":
        await _http(scope, receive, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    await receive()
    start = _take_next_start() or _file(f"start.{NAME}") or os.environ.get("FAULTY_START", "")
    kind, _, argument = start.partition(":")
    if kind == "hang":
        await asyncio.sleep(FOR_EVER_S)
    elif kind == "block":
        time.sleep(FOR_EVER_S)
    elif kind == "slow":
        await asyncio.sleep(float(argument))
    elif kind == "blocked":
        time.sleep(float(argument))
    elif kind == "fail":
        await send({"type": "lifespan.startup.failed", "message": "told to fail"})
        return
    elif kind == "hang-after":
        # uvicorn opens its server on the inherited socket right after this message; it has 20 ms to do so.
        asyncio.get_running_loop().call_later(0.02, time.sleep, FOR_EVER_S)
    if os.environ.get("FAULTY_DB"):
        try:
            _ask_database(float(os.environ.get("FAULTY_DB_PATIENCE_S", FOR_EVER_S)))
        except TimeoutError as error:  # raised from here uvicorn would take it for "no lifespan", and serve
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


def _file(name: str) -> str:
    """What the test wrote to this file of ``FAULTY_DIR``; empty where there is none."""
    try:
        return (Path(os.environ["FAULTY_DIR"]) / name).read_text().strip()
    except (KeyError, FileNotFoundError):
        return ""


def _take_next_start() -> str:
    """What the next starting worker is to do; taken by renaming, so that exactly one worker gets it."""
    directory = Path(os.environ.get("FAULTY_DIR", "/nonexistent"))
    taken = f"taken.{os.getpid()}"
    try:
        (directory / "next-start").rename(directory / taken)
    except FileNotFoundError:
        return ""
    return _file(taken)


def _ask_database(patience_s: float = FOR_EVER_S) -> str:
    """One question to the TCP "database", with a driver that blocks for as long as there is no answer.

    A refused or cut connection is tried again, as drivers do: what is down must look down, not crash. TimeoutError when
    ``patience_s`` is over.
    """
    host, _, port = os.environ["FAULTY_DB"].rpartition(":")
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        with (
            contextlib.suppress(OSError),
            socket.create_connection((host, int(port)), timeout=patience_s) as connection,
        ):
            connection.sendall(b"?\n")
            answer = connection.recv(100)
            if answer:
                return answer.decode().strip()
        time.sleep(0.2)
    raise TimeoutError("no database")


async def _http(scope: Message, receive: Receive, send: Send) -> None:
    global _health
    path: str = scope["path"]
    query = {key: values[-1] for key, values in parse_qs(scope["query_string"].decode()).items()}
    seconds = float(query.get("s", FOR_EVER_S))
    if _leak_bytes:
        _kept.append(b"x" * _leak_bytes)
    if path == "/pid":
        await _answer(send, 200, {})
    elif path == "/health":
        await _answer_health(send, _wanted_health())
    elif path == "/set":
        _health = query["health"]
        await _answer(send, 200, {"health": _health})
    elif path.startswith("/hang/"):
        HANGS[path.removeprefix("/hang/")]()
    elif path == "/block":
        time.sleep(seconds)
        await _answer(send, 200, {})
    elif path == "/wait":
        await asyncio.sleep(seconds)
        await _answer(send, 200, {})
    elif path == "/lag":
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.05)
            await asyncio.sleep(0)
        await _answer(send, 200, {})
    elif path == "/db":
        await _answer(send, 200, {"database": _ask_database()})
    elif path == "/stream":
        await _stream(send)
    elif path == "/pool":
        await _answer(send, 200, {"helpers": _start_pool()})
    elif path == "/mp-pool":
        await _answer(send, 200, {"helpers": _start_multiprocessing_pool()})
    elif path == "/fork":
        await _answer(send, 200, {"helpers": [_fork_helper()]})
    elif path == "/leak":
        _kept.append(b"x" * (int(query["mb"]) * 1024**2))
        await _answer(send, 200, {})
    elif path == "/open":
        _open.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(int(query["n"])))
        await _answer(send, 200, {"open": len(_open)})
    elif path == "/block-at":
        began = time.monotonic()
        time.sleep(seconds)
        await _answer(send, 200, {"began": began, "ended": time.monotonic()})
    else:
        await _answer(send, 404, {"path": path})


async def _answer(send: Send, status: int, content: dict[str, Any]) -> None:
    body = json.dumps({"pid": os.getpid(), **content}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _stream(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    while True:
        await send({"type": "http.response.body", "body": b"line\n", "more_body": True})
        await asyncio.sleep(0.1)


# --- health ---------------------------------------------------------------------------------------------------------


def _wanted_health() -> str:
    return _health if _health != "ok" else _file(f"health.{NAME}") or _file("health") or "ok"


async def _answer_health(send: Send, health: str) -> None:
    kind, _, argument = health.partition(":")
    if kind == "ok":
        await _answer(send, 200, {"health": health})
    elif kind.isdigit():
        await _answer(send, int(kind), {"health": health})
    elif kind == "slow":
        await asyncio.sleep(float(argument))
        await _answer(send, 200, {"health": health})
    elif kind == "db":
        await _answer(send, 200, {"database": _ask_database()})
    elif kind == "tail":  # the body is complete by its length, and the application goes on behind it
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok", "more_body": True})
        await asyncio.sleep(float(argument))
        await send({"type": "http.response.body", "body": b""})
    elif kind == "hang":  # in the very handler that is asked
        HANGS[argument]()
    elif kind in {"endless", "drip", "flood"}:
        await _never_end(send, kind)
    elif kind in {"close", "garbage"}:
        transport = _transport(send)
        if kind == "garbage":
            transport.write(b"\x00\xff garbage, not HTTP \r\n\r\n" * 3)
        transport.close()
        # Ended before, uvicorn would answer 500 in our place; never ended, a stop of the worker would wait for us.
        while not _cycle(send).disconnected:
            await asyncio.sleep(0.001)


async def _never_end(send: Send, kind: str) -> None:
    """``endless``: begins its body and never ends it. ``drip``: a byte a second. ``flood``: as much as one takes."""
    length = [(b"content-length", b"100000")] if kind == "drip" else []
    await send({"type": "http.response.start", "status": 200, "headers": length})
    for _ in range(90_000):
        if kind == "flood" and _transport(send).is_closing():
            return  # or a stop of the worker would wait for it
        body = b"." if kind == "drip" else b"." * 1000
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await asyncio.sleep({"endless": FOR_EVER_S, "drip": 1.0, "flood": 0.001}[kind])


def _transport(send: Send) -> asyncio.Transport:
    """What ASGI cannot do is done on the transport, which uvicorn's request cycle holds (h11 and httptools alike)."""
    transport: asyncio.Transport = _cycle(send).transport
    return transport


def _cycle(send: Send) -> Any:
    return send.__self__  # type: ignore[attr-defined]


# --- hangs: none of them returns ------------------------------------------------------------------------------------


def _spin() -> None:
    while True:
        pass


def _deadlock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def _read_for_ever() -> None:
    ours, theirs = socket.socketpair()
    ours.recv(1)
    theirs.close()


def _hold_gil() -> None:
    ctypes.PyDLL(None).sleep(int(FOR_EVER_S))  # PyDLL calls without releasing the GIL


HANGS: dict[str, Callable[[], None]] = {
    "sleep": lambda: time.sleep(FOR_EVER_S),
    "spin": _spin,
    "lock": _deadlock,
    "read": _read_for_ever,
    "gil": _hold_gil,
}


# --- helpers --------------------------------------------------------------------------------------------------------


def _start_pool() -> list[int]:
    """A process pool by fork: its processes inherit every descriptor, the shared socket among them."""
    global _pool
    if _pool is None:
        _pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"))
        for future in [_pool.submit(time.sleep, 0.2) for _ in range(2)]:
            future.result()
    return list(_pool._processes)


def _start_multiprocessing_pool() -> list[int]:
    """The same, of the kind that starts a new process for each that ends, from a thread of its own."""
    global _mp_pool
    if _mp_pool is None:
        _mp_pool = multiprocessing.get_context("fork").Pool(2)
        _mp_pool.map(time.sleep, [0.2, 0.2])
    return [child.pid for child in multiprocessing.active_children() if child.pid]


def _fork_helper() -> int:
    pid = os.fork()
    if pid == 0:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        while True:
            time.sleep(FOR_EVER_S)
    return pid
