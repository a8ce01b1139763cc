"""Workers stopped one after the other under load, and what became of each request."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness import processes
from integration.serve_site import Site, Worker

SERVE = ("supervisor_uvicorn.serve",)
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n"


@dataclass
class Load:
    """Counts of answered requests, and each that was not."""

    fresh: int = 0  # each on a connection of its own
    kept: int = 0  # on keep-alive connections
    closed_by_the_last_answer: int = 0
    failed: list[str] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)  # of the workers that were stopped
    stops_s: list[float] = field(default_factory=list)


def rolled(
    site: Site, workers: int, rolls: int, clients: int = 4, requests: int = 0, verb: Sequence[str] = SERVE
) -> Load:
    """Start ``workers``, stop ``rolls`` of them in turn, each replaced before the next, under two times ``clients``.

    Goes on until at least ``requests`` of each kind are done.
    """
    running = [site.start(verb) for _ in range(workers)]
    return asyncio.run(_run(site, running, rolls, clients, requests, verb))


async def _run(site: Site, running: list[Worker], rolls: int, clients: int, requests: int, verb: Sequence[str]) -> Load:
    load, over = Load(), asyncio.Event()
    tasks = [asyncio.create_task(_fresh(site, load, over)) for _ in range(clients)]
    tasks += [asyncio.create_task(_kept(site, load, over)) for _ in range(clients)]
    done = 0
    while done < rolls or min(load.fresh, load.kept) < requests:
        await asyncio.sleep(0.2)  # load on all workers between two stops, not a wait for something
        await _replace(site, running, done % len(running), load, verb)
        done += 1
    over.set()
    await asyncio.gather(*tasks)
    return load


async def _replace(site: Site, running: list[Worker], at: int, load: Load, verb: Sequence[str]) -> None:
    old, clock = running[at], asyncio.get_running_loop().time
    begun = clock()
    old.process.send_signal(signal.SIGTERM)
    while old.process.poll() is None:
        if clock() - begun > 20:
            raise AssertionError(f"pid {old.pid} does not stop:\n{site.log()[-2000:]}")
        await asyncio.sleep(0.01)
    load.stops_s.append(round(clock() - begun, 3))
    load.codes.append(old.process.returncode)
    new = running[at] = site.spawn(verb)
    begun = clock()
    while not processes.serving(new.pid):
        if new.process.poll() is not None or clock() - begun > 60:
            raise AssertionError(f"pid {new.pid} does not serve:\n{site.log()[-2000:]}")
        await asyncio.sleep(0.02)


async def _fresh(site: Site, load: Load, over: asyncio.Event) -> None:
    while not over.is_set():
        try:
            reader, writer = await _connect(site)
            try:
                writer.write(REQUEST + b"Connection: close\r\n\r\n")
                await _answer(reader)
                load.fresh += 1
            finally:
                writer.close()
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            load.failed.append(f"fresh: {error!r}")


async def _kept(site: Site, load: Load, over: asyncio.Event) -> None:
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while not over.is_set():
        try:
            streams = streams or await _connect(site)
            streams[1].write(REQUEST + b"\r\n")
            last = await _answer(streams[0])
            load.kept += 1
            if last:
                load.closed_by_the_last_answer += 1
                streams[1].close()
                streams = None
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            load.failed.append(f"kept: {error!r}")
            if streams:
                streams[1].close()
                streams = None
    if streams:
        streams[1].close()


async def _connect(site: Site) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = site.listening.getsockname()
    if isinstance(address, str):
        return await asyncio.open_unix_connection(address)
    return await asyncio.open_connection(*address)


async def _answer(reader: asyncio.StreamReader) -> bool:
    """Read one answer of 200. True where it closes the connection."""
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).lower()
    if not head.startswith(b"http/1.1 200"):
        raise OSError(head)
    await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r")[0]))
    return b"connection: close" in head
