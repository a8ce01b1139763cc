"""What ``serve`` relies on in uvicorn beyond its public interface, looked up at the start rather than met at the end.

All of it has stood unchanged from uvicorn 0.30 to 0.54. Where a newer uvicorn differs, ``serve`` says so and exits with
1 before it serves, because a shutdown that only seems to be graceful is worse than none.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
from types import ModuleType
from typing import Any

OLDEST = (0, 30)
NEWEST_TESTED = "0.54"


class ChangedError(Exception):
    """This uvicorn is not as ``serve`` knows it. The text is for the user, and whole."""

    def __init__(self, version: str, what: str) -> None:
        super().__init__(
            f"uvicorn {version} is not as `serve` knows it: {what}. It knows uvicorn 0.30 to {NEWEST_TESTED}: install "
            f"one of these (pip install 'uvicorn<={NEWEST_TESTED}.99'), or write `uvicorn` instead of "
            "`supervisor-uvicorn serve` in the command, which drops connections when it is stopped"
        )


def main_module() -> ModuleType:
    """The module ``uvicorn.main``, whose ``main`` is the command and whose ``run`` makes a ``Server``.

    (``import uvicorn.main as ...`` would give the command of the same name.) Raises :class:`ChangedError`, and
    ModuleNotFoundError where uvicorn is not installed.
    """
    importlib.import_module("uvicorn.main")
    module = sys.modules["uvicorn.main"]
    version = _version()
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST:
        raise ChangedError(version, "it is too old")
    run = getattr(module, "run", None)
    if not callable(getattr(module, "main", None)) or not inspect.isfunction(run):
        raise ChangedError(version, "uvicorn.main has no command `main` or no function `run`")
    if not isinstance(getattr(module, "Server", None), type) or "Server" not in run.__code__.co_names:
        raise ChangedError(version, "uvicorn.main.run does not make a `Server`")
    _check_server(version, module.Server)
    return module


def _version() -> str:
    return str(getattr(sys.modules["uvicorn"], "__version__", "?"))


def _check_server(version: str, server: type) -> None:
    for method, wanted in (("startup", {"sockets"}), ("shutdown", {"sockets"}), ("handle_exit", {"sig", "frame"})):
        found = getattr(server, method, None)
        if found is None or not wanted <= set(inspect.signature(found).parameters):
            raise ChangedError(version, f"Server.{method} does not take {' and '.join(sorted(wanted))}")
    if not (inspect.iscoroutinefunction(server.startup) and inspect.iscoroutinefunction(server.shutdown)):  # type: ignore[attr-defined]
        raise ChangedError(version, "Server.startup or Server.shutdown is no coroutine")


def check(server: Any, make_protocol: Any) -> None:
    """Look at a loaded server and at one protocol of it, inside the running loop. Raises :class:`ChangedError`."""
    version = _version()
    for owner, names in (
        (server, ("config", "server_state", "lifespan", "started", "should_exit", "force_exit")),
        (server.server_state, ("connections", "tasks", "default_headers")),
        (server.config, ("ssl", "backlog", "ws_protocol_class", "timeout_graceful_shutdown")),
    ):
        _has(version, owner, names)
    try:
        protocol = make_protocol()
    except TypeError as error:
        raise ChangedError(version, f"its HTTP protocol is made in another way ({error})") from None
    _has(version, protocol, ("connections", "transport", "shutdown"))
    module = type(protocol).__module__
    if module.startswith("uvicorn.protocols.http.") and not _sniffs(protocol):
        _has(version, protocol, ("cycle", "timeout_keep_alive_task", "ws_protocol_class"))
        cycle = getattr(sys.modules[module], "RequestResponseCycle", None)
        known = set(cycle.__init__.__code__.co_names) if cycle else set()
        if missing := {"response_started", "response_complete", "default_headers"} - known:
            raise ChangedError(version, f"{module}.RequestResponseCycle has no {', '.join(sorted(missing))}")


def _has(version: str, owner: Any, names: tuple[str, ...]) -> None:
    if missing := [name for name in names if not hasattr(owner, name)]:
        raise ChangedError(version, f"{type(owner).__name__} has no {', '.join(missing)}")


def _sniffs(protocol: asyncio.Protocol) -> bool:
    """``--http2``: it hands each connection on to another protocol (uvicorn 0.53, auto_zttp_impl.py)."""
    return type(protocol).__name__ == "AutoZttpProtocol"
