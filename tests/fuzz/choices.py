"""An input as a list of choices: how bytes become a JSON value that is nearly right.

Bytes that are mutated one by one seldom stay JSON. So most inputs of such a target say where a valid value is to be
changed, and into what: the readers below the parser are reached, and an engine still sees only bytes.
"""

from __future__ import annotations

import copy
import json
from typing import Any

MOST_EDITS = 8
RAW = 0xFF
"""A first byte of this says that the rest is the text itself."""


def _deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 7, 2**31, 2**63, 10**400, -(10**400), 0.5, -0.5, 1e-9, 1e15, 1e308,
    float("nan"), float("inf"), float("-inf"),
    "", "x", "0", "web", "web:web-0", "web:*", "all", "RUNNING", "STOPPED", "healthy", "silent", "failing", "done",
    "rolling", "stopped", "under way", "left",
    "\x1b[31mred\x1b[0m\x07", "two\r\nweb: forged line", "\u202etxt\u2066", "\u2028", "\x9b2J",
    "\ud800", "\udc80", "\0",
    "漢" * 60, "e\u0301" * 20, "a b " * 60, "y" * 3000, "%s %(x)s {0}",
    "2026-11-22T06:38:01.5+00:00", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59",
    [], {}, [[]], [None], {"": None}, _deep(5), _deep(40), list(range(50)),
)  # fmt: skip


class Choices:
    """Takes an input's bytes one after the other; when they have ended, every choice is the first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        return self._at < len(self._data)

    def one_of(self, many: int) -> int:
        """A number from 0 to below ``many`` (at most 65536); 0 for none."""
        if many <= 1:
            return 0
        width = 1 if many <= 256 else 2
        found = int.from_bytes(self._data[self._at : self._at + width], "little")
        self._at += width
        return found % many

    def taken(self, most: int) -> bytes:
        """The next bytes, at most ``most``."""
        piece = self._data[self._at : self._at + most]
        self._at += most
        return piece

    def rest(self) -> bytes:
        return self.taken(len(self._data))


def edited(base: Any, choices: Choices) -> Any:
    """A copy of ``base`` (JSON) in which some values are others, missing, doubled or taken from elsewhere in it."""
    root = [json.loads(json.dumps(base))]
    for _ in range(MOST_EDITS):
        if not choices.more:
            break
        places = list(_places(root))
        where, key = places[choices.one_of(len(places))]
        how = choices.one_of(8)
        if how < 4:
            where[key] = copy.deepcopy(ODD[choices.one_of(len(ODD))])  # the next edit may change it
        elif how == 4:
            where[key] = choices.taken(1 + choices.one_of(32)).decode("utf-8", "surrogateescape")
        elif how == 5:
            other, its_key = places[choices.one_of(len(places))]
            where[key] = json.loads(json.dumps(other[its_key]))
        elif how == 6 and where is not root:
            del where[key]
        elif isinstance(where, list):
            where.insert(key, json.loads(json.dumps(where[key])))
        else:
            where[str(ODD[choices.one_of(len(ODD))])[:300]] = where[key]
    return root[0]


def _places(root: Any) -> Any:
    """(container, key) of every value, the whole one included; bounded, because edits make a value grow."""
    waiting, seen = [root], 0
    while waiting and seen < 2000:
        where = waiting.pop(0)
        for key in range(len(where)) if isinstance(where, list) else where:
            yield where, key
            seen += 1
            if isinstance(where[key], list | dict):
                waiting.append(where[key])


def json_text(data: bytes, bases: tuple[Any, ...]) -> str:
    """The text that an input stands for: itself behind a :data:`RAW` byte, else one of ``bases`` edited."""
    if data[:1] == bytes([RAW]):
        return data[1:].decode("utf-8", "surrogateescape")
    choices = Choices(data)
    return json.dumps(edited(bases[choices.one_of(len(bases))], choices))


def raw(text: str) -> bytes:
    """The input that stands for just this text."""
    return bytes([RAW]) + text.encode("utf-8", "surrogateescape")


JSON_TOKENS = (
    b'{"', b'": ', b"[", b"]", b"}", b"null", b"true", b"1e400", b"NaN", b"-Infinity", b"\\u001b[2J", b"\\ud800",
    b"9" * 400,
)  # fmt: skip
