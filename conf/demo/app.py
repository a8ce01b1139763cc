"""The demo's application: with plain GETs one of its workers can be hung, spun, failed, slowed down and recovered.

Whichever worker accepts the request does what it says, and answers with its name and pid first. A sick worker has a
file of its own in ``DEMO_DIR``, so that ``/recover``, which another worker answers, can reach it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]

DIRECTORY = Path(os.environ.get("DEMO_DIR", tempfile.gettempdir()))
SICK = DIRECTORY / f"sick.{os.getpid()}"
ME = f"{os.environ.get('SUPERVISOR_PROCESS_NAME', 'worker')} (pid {os.getpid()})"


async def app(scope: Message, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "http":
        await ROUTES.get(scope["path"], not_found)(send)


async def answer(send: Send, text: str, status: int = 200) -> None:
    body = f"{ME}: {text}\n".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def hello(send: Send) -> None:
    """``/`` and ``/health``: well, or as sick as this worker was told to be."""
    sickness = SICK.read_text() if SICK.is_file() else ""
    if sickness == "slow":
        await asyncio.sleep(5)
    if sickness == "fail":
        await answer(send, "I only answer errors", 500)
    else:
        await answer(send, "slow today" if sickness == "slow" else "well")


async def hang(send: Send) -> None:
    """Block the event loop in a read that nobody answers, until ``/recover`` does."""
    SICK.unlink(missing_ok=True)
    os.mkfifo(SICK)
    await answer(send, "my event loop hangs from now on")
    asyncio.get_running_loop().call_later(0.05, wait_for_recovery)


def wait_for_recovery() -> None:
    os.close(os.open(SICK, os.O_RDONLY))  # of a named pipe: waits until somebody opens it for writing


async def spin(send: Send) -> None:
    """Keep the event loop busy with a computation, until ``/recover`` ends it."""
    SICK.write_text("spin")
    await answer(send, "my event loop computes from now on, and does nothing else")
    asyncio.get_running_loop().call_later(0.05, compute)


def compute() -> None:
    while SICK.exists():
        sum(range(100_000))


async def fail(send: Send) -> None:
    SICK.write_text("fail")
    await answer(send, "I answer errors from now on")


async def slow(send: Send) -> None:
    SICK.write_text("slow")
    await answer(send, "I take 5 s for an answer from now on")


async def recover(send: Send) -> None:
    """Heal every worker of this demo, whoever answers this."""
    healed = []
    for path in sorted(DIRECTORY.glob("sick.*")):
        pid = path.suffix.lstrip(".")
        if path.is_fifo():
            with contextlib.suppress(OSError):  # nobody reads it: the worker was replaced meanwhile
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))  # the reader wakes up with an end of file
        path.unlink(missing_ok=True)
        if Path(f"/proc/{pid}").exists():
            healed.append(pid)
    await answer(send, f"recovered pid {', '.join(healed)}" if healed else "nobody is sick")


async def not_found(send: Send) -> None:
    await answer(send, f"there is only {', '.join(ROUTES)}", 404)


ROUTES: dict[str, Callable[[Send], Awaitable[None]]] = {
    "/": hello,
    "/health": hello,
    "/hang": hang,
    "/spin": spin,
    "/fail": fail,
    "/slow": slow,
    "/recover": recover,
}
