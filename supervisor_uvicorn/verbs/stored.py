"""A JSON object out of supervisord's memory, checked to its last used field: anybody who may call supervisord may have
written it. What has passed here is used without another look.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

VERSION = 1  # of the page, and of the history
MOST_DEPTH = 32  # of the page's own there are 6, and evidence in the history may have some more
MOST_NUMBER = 1e15  # in seconds 30 million years; a larger integer need not fit into a float


class BadPage(Exception):  # noqa: N818 - it reads as what it is
    """It is something else than what we can read; the message says what, and where."""


class Field(NamedTuple):
    """A key of an object: what its value must be, in words, too, and what stands for it where it is missing."""

    fits: Callable[[object], bool]
    words: str
    default: Any = None
    required: bool = False


Shape = Mapping[str, Field]


def text(value: object) -> bool:
    return isinstance(value, str)


def yes_or_no(value: object) -> bool:
    return isinstance(value, bool)


def number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST_NUMBER


def above_0(value: object) -> bool:
    return isinstance(value, int | float) and number(value) and value > 0


def whole(value: object) -> bool:
    return isinstance(value, int) and number(value)


def list_(value: object) -> bool:
    return isinstance(value, list)


def texts(value: object) -> bool:
    return isinstance(value, list) and all(map(text, value))


def or_null(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or fits(value)


NAME = Field(text, "a text", required=True)
TEXT = Field(text, "a text", "")
TEXT_OR_NULL = Field(or_null(text), "a text or null")
NUMBER_OR_NULL = Field(or_null(number), "a number or null")
WHOLE_OR_NULL = Field(or_null(whole), "a whole number or null")
ANYTHING = Field(lambda _: True, "anything")  # checked by itself where it is there


def objects(default: Any = ()) -> Field:
    """A list, whose items are then checked each for itself."""
    return Field(list_, "a list", list(default))


def load(json_text: str, what: str, whose: str) -> dict[str, Any]:
    """The object with a version that we read. Raises :class:`BadPage`.

    ``what``: how the text is called; ``whose``: what it should be.
    """
    try:
        found = json.loads(json_text)
        sound = _sound(found, MOST_DEPTH)
    except ValueError as error:
        raise BadPage(f"{what} is no JSON ({error})") from None
    except RecursionError:
        sound = False
    if not sound:
        raise BadPage(f"{what} is no {whose}: it is nested too deep, or has a number that JSON does not know")
    version = found.get("version") if isinstance(found, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise BadPage(f"{what} is no {whose}")
    if version > VERSION:
        raise BadPage(
            f"{what} is of version {_quoted(version)}, and this supervisor-uvicorn reads {VERSION}: "
            "it is older than the listener. Install the same version here"
        )
    return dict(found)


def checked(given: object, shape: Shape, where: str) -> dict[str, Any]:
    """``given`` with all of ``shape``'s keys, in that order; other keys stay. Raises :class:`BadPage`."""
    if not isinstance(given, dict):
        raise BadPage(f"{where} is {_quoted(given)}, not an object")
    found = {}
    for key, field in shape.items():
        value = given.get(key, field.default)
        if (field.required and key not in given) or not field.fits(value):
            what = f"is {_quoted(value)}, not {field.words}" if key in given else "is missing"
            raise BadPage(f"{where}.{key} {what}")
        found[key] = value
    return {**found, **given}


def _sound(value: object, depth: int) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_sound(one, depth - 1) for one in inner)


def _quoted(value: object) -> str:
    """It is no deeper than :data:`MOST_DEPTH`, and no longer than a cell."""
    try:
        shown = repr(value)
    except ValueError:  # an integer of more figures than Python writes out
        return "a number without end"
    return shown if len(shown) <= 80 else shown[:77] + "..."
