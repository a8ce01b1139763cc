"""The ASGI application of uvicorn's documentation: it answers "Hello, world!" to everything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any


async def App(  # noqa: N802 - the recipe's own name
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"Hello, world!"})
