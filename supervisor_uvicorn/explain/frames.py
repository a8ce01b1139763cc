"""A stack as lines of text: each frame as a person reads it, the whole cut to a size. Pure.

Only a function's name, its file and its line: never the value of a variable. What another process says of itself may be
anything, so nothing that could not be printed in a log line comes through.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

MAX_FRAMES = 40
MAX_BYTES = 4 * 1024
MAX_FRAME_CHARACTERS = 200

_LIBRARY = re.compile(r"^.*/(?:site|dist)-packages/")
_STANDARD_LIBRARY = re.compile(r"^.*/lib(?:64)?/python3\.\d+t?/")


@dataclass(frozen=True)
class Frame:
    """One frame; ``line`` is 0 where it is not known."""

    function: str
    file: str
    line: int


def lines(
    frames: Iterable[Frame], directory: str = "", *, limit: int = MAX_FRAMES, limit_bytes: int = MAX_BYTES
) -> tuple[str, ...]:
    """The innermost frames that fit, as "wait_for_recovery (conf/demo/app.py:62)"; a last line says what was left out.

    ``directory`` is the worker's working directory, "" where it is not known. At most ``limit`` lines and
    ``limit_bytes`` bytes of JSON, that line included.
    """
    texts = [_text(frame, directory) for frame in frames]
    kept: list[str] = []
    left_bytes = limit_bytes - 40  # for the line about the rest, and the brackets
    for text in texts:
        size_bytes = json_bytes(text) + 2
        if size_bytes > left_bytes or (len(kept) == limit - 1 and len(texts) > limit):
            break
        kept.append(text)
        left_bytes -= size_bytes
    if len(kept) < len(texts):
        kept.append(f"... and {len(texts) - len(kept)} outer frames")
    return tuple(kept)


def short(file: str, directory: str) -> str:
    """A path as a person knows it: from the worker's directory, from the package, from the standard library."""
    if directory not in ("", "/") and file.startswith(directory.rstrip("/") + "/"):
        inside = file[len(directory.rstrip("/")) + 1 :]
        if not _LIBRARY.match("/" + inside):  # a virtual environment in the application's directory
            return inside
    for pattern in (_LIBRARY, _STANDARD_LIBRARY):
        if found := pattern.match(file):
            return file[found.end() :]
    return file


def printable(text: str, limit: int) -> str:
    """``text`` on one line, without control characters, of at most ``limit`` characters."""
    clean = "".join(character if character.isprintable() else "?" for character in text)
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."


def within(text: str, limit_bytes: int) -> str:
    """The same, of at most ``limit_bytes`` bytes as a JSON text with its quotes."""
    clean = printable(text, limit_bytes)
    while json_bytes(clean) > limit_bytes:
        clean = clean[: -max(4, len(clean) // 8)] + "..."
    return clean


def json_bytes(text: str) -> int:
    """How many bytes ``text`` takes in a JSON text that is ASCII only, with its quotes."""
    return len(json.dumps(text))


def _text(frame: Frame, directory: str) -> str:
    file = short(frame.file, directory)
    if len(file) > MAX_FRAME_CHARACTERS // 2:  # a file is known by its end
        file = "..." + file[3 - MAX_FRAME_CHARACTERS // 2 :]
    function = printable(frame.function, MAX_FRAME_CHARACTERS // 2 - 12)
    return f"{function} ({printable(file, MAX_FRAME_CHARACTERS)}:{frame.line or '?'})"
