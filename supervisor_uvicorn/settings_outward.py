"""What the listener takes to speak to the outside: an address, a file, a command, a URL. Floor 0, beside
settings_kinds.py."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from urllib.parse import urlsplit

from supervisor_uvicorn.settings_kinds import Kind

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Place:
    """Where something listens on TCP."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _nothing(text: str) -> bool:
    return text.strip().lower() in ("", "none")


def _place(text: str) -> Place | None:
    if _nothing(text):
        return None
    found = re.fullmatch(
        r"\s*(?:(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[A-Za-z0-9._-]*)):)?(?P<port>[0-9]{1,5})\s*", text, re.ASCII
    )
    if not found or not 1 <= int(found["port"]) <= 65535:
        raise ValueError("is neither HOST:PORT nor PORT")
    return Place(found["six"] or found["host"] or LOOPBACK, int(found["port"]))


def place() -> Kind:
    """A host and a port; a port alone is one of the loopback address, so that nothing is open to others by mistake."""
    return Kind("HOST:PORT, or PORT of 127.0.0.1; or none", "HOST:PORT", _place, lambda value: str(value or "none"))


def _file(text: str) -> str | None:
    if _nothing(text):
        return None
    if not text.strip().startswith("/"):
        raise ValueError("is not an absolute path: a listener runs where supervisord does")
    return text.strip()


def file() -> Kind:
    """An absolute path."""
    return Kind("an absolute path; or none", "FILE", _file, lambda value: str(value or "none"))


def _command(text: str) -> tuple[str, ...]:
    if _nothing(text):
        return ()
    try:
        words = tuple(shlex.split(text))
    except ValueError as problem:
        raise ValueError(f"is not a command: {problem}") from None
    if not words:
        raise ValueError("is not a command")
    return words


def command() -> Kind:
    """A command and its arguments, quoted as for a shell, which there is none of."""
    return Kind(
        "a command with its arguments; or none", "COMMAND", _command, lambda value: shlex.join(value) or "none",
        secret=True,
    )  # fmt: skip


def _url(text: str) -> str | None:
    if _nothing(text):
        return None
    word = text.strip()
    try:
        parts = urlsplit(word)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or re.search(r"[\s\x00-\x20]", word):
        raise ValueError("is not a URL that begins with http:// or https:// and names a host")
    return word


def url() -> Kind:
    """A URL. It may carry a token, so it stands in no message."""
    return Kind("a URL; or none", "URL", _url, lambda value: str(value or "none"), secret=True)
