"""What a setting takes: how each kind of value is read, written and named. Floor 0.

``parse`` takes the text and raises ``ValueError`` whose message goes on after the quoted text ('is not a number of
seconds'); ``write`` gives what a user would have written.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LONGEST_S = 86400.0
"""No duration is longer than a day: what is meant then is "never", which each setting says in its own way."""


@dataclass(frozen=True)
class Backoff:
    """How long until the same name may be replaced again: ``first_s``, doubling to ``longest_s``. Both 0: off."""

    first_s: float = 10.0
    longest_s: float = 300.0
    forget_after_s: float = 600.0


@dataclass(frozen=True)
class Budget:
    """At most ``restarts`` replacements within ``window_s``. None: max(3, workers of the program)."""

    restarts: int | None = None
    window_s: float = 600.0


@dataclass(frozen=True)
class Kind:
    """``unit`` names what is taken, in a table's cell. ``metavar`` None: a flag without a value. A ``repeatable`` kind
    parses one line into a tuple, and the tuples are joined. A ``secret`` value stands in no message.
    """

    unit: str
    metavar: str | None
    parse: Callable[[str], Any]
    write: Callable[[Any], str]
    repeatable: bool = False
    secret: bool = False


def plain(number: float) -> str:
    """A number as people write it: 30, 0.5."""
    return f"{number:g}" if abs(number) < 1e6 else f"{number:.0f}"


def _number(text: str, what: str) -> float:
    # float() also takes nan, inf, 1_0 and other alphabets' digits, none of which is meant.
    if not re.fullmatch(r"\s*[0-9]+(\.[0-9]*)?\s*|\s*\.[0-9]+\s*", text, re.ASCII):
        raise ValueError(f"is not {what}")
    return float(text)


def _seconds(text: str, at_least_s: float = 0.0, at_most_s: float = LONGEST_S) -> float:
    value_s = _number(text, "a number of seconds")
    if value_s < at_least_s:
        raise ValueError(f"is too short: at least {plain(at_least_s)} seconds")
    if value_s > at_most_s:
        raise ValueError(f"is too long: at most {plain(at_most_s)} seconds")
    return value_s


def seconds(*, at_least_s: float, at_most_s: float = LONGEST_S) -> Kind:
    """A duration in seconds, whole or with a point."""
    return Kind("seconds", "S", lambda text: _seconds(text, at_least_s, at_most_s), plain)


def seconds_or(word: str) -> Kind:
    """A duration in seconds, or ``word``, which is None."""

    def parse(text: str) -> float | None:
        if text.strip() == word:
            return None
        try:
            return _seconds(text)
        except ValueError as problem:
            raise ValueError(f"{problem}, nor {word}" if "not a number" in str(problem) else str(problem)) from None

    return Kind(f"seconds, or {word}", "S", parse, lambda value: word if value is None else plain(value))


def number(*, at_least: float, at_most: float) -> Kind:
    """A bare number."""

    def parse(text: str) -> float:
        value = _number(text, "a number")
        if not at_least <= value <= at_most:
            raise ValueError(f"is not between {plain(at_least)} and {plain(at_most)}")
        return value

    return Kind("a factor", "N", parse, plain)


def _count(text: str) -> int:
    if not re.fullmatch(r"\s*[0-9]{1,6}\s*", text, re.ASCII) or int(text) < 1:
        raise ValueError("is not a whole number, 1 or more")
    return int(text)


def count() -> Kind:
    """A whole number, 1 or more."""
    return Kind("a whole number", "N", _count, str)


def _share(text: str) -> float:
    stripped = text.strip()
    percent = stripped.endswith("%")
    try:
        value = _number(stripped.removesuffix("%"), "a share") / (100 if percent else 1)
    except ValueError:
        raise ValueError("is neither a percentage nor a number from 0 to 1") from None
    if not 0 <= value <= 1:
        raise ValueError("is more than all of them" + ("" if percent else "; a percentage needs its %"))
    return value


def share() -> Kind:
    """A share, as 50% or as 0.5."""
    return Kind("a share, as 50% or 0.5", "P", _share, lambda value: plain(value * 100) + "%")


_TRUE = ("yes", "true", "on", "1")
_FALSE = ("no", "false", "off", "0")


def _flag(text: str) -> bool:
    word = text.strip().lower()
    if word not in _TRUE + _FALSE:
        raise ValueError("is neither true nor false")
    return word in _TRUE


def flag() -> Kind:
    """True or false, in the words that supervisor takes (supervisor 4.3.0, datatypes.py ``TRUTHY_STRINGS``)."""
    return Kind("true or false", None, _flag, lambda value: "true" if value else "false")


def choice(*words: str) -> Kind:
    """One of ``words``."""

    def parse(text: str) -> str:
        if text.strip() not in words:
            raise ValueError("is none of " + ", ".join(words))
        return text.strip()

    return Kind(" or ".join(words), "{" + ",".join(words) + "}", parse, str)


def _groups(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in re.split(r"[,\n]", text) if name.strip())
    if not names:
        raise ValueError("names no group")
    for name in names:
        # supervisor 4.3.0, datatypes.py process_or_group_name
        if re.search(r"[\s:/]", name):
            raise ValueError("is not the name of a group; the group of web:web-0 or web:* is web")
    return names


def groups() -> Kind:
    """Names of groups, separated by commas."""
    write = ",".join
    return Kind("names, separated by commas", "GROUP", _groups, lambda value: write(value) or "none", repeatable=True)


def _path(text: str) -> str | None:
    if not text.strip():
        return None
    if not text.startswith("/"):
        raise ValueError("does not begin with /")
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("has a blank or a letter that is not ASCII; write it percent-encoded, a blank as %20")
    if "#" in text:
        raise ValueError("has a #, which a server never sees; write %23 if it is meant")
    return text


def path() -> Kind:
    """The path of a request, and its query. Empty: none."""
    return Kind("a path, with its query if any; empty for none", "PATH", _path, lambda value: value or "none")


def _statuses(text: str) -> tuple[tuple[int, int], ...]:
    ranges = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([1-5][0-9]{2})\s*(?:-\s*([1-5][0-9]{2})\s*)?", part, re.ASCII)
        if not found:
            raise ValueError("is not a list of status codes from 100 to 599 and ranges of them")
        first, last = int(found[1]), int(found[2] or found[1])
        if first > last:
            raise ValueError(f"has a range that ends before it begins: {first}-{last}")
        ranges.append((first, last))
    return tuple(ranges)


def statuses() -> Kind:
    """Status codes and ranges of them."""

    def write(ranges: tuple[tuple[int, int], ...]) -> str:
        return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)

    return Kind("status codes and ranges, as 200,204,301-302", "CODES", _statuses, write)


def _host(text: str) -> str | None:
    stripped = text.strip()
    if not stripped:
        return None
    if not re.fullmatch(r"[A-Za-z0-9._~:\[\]-]{1,255}", stripped):
        raise ValueError("is not a host name, with :PORT or without")
    return stripped


def host() -> Kind:
    """The value of a Host header. Empty: none."""
    return Kind("a host name, with :PORT or without", "HOST", _host, lambda value: value or "none")


# The probe writes these itself; a second one, or another body, would make an answer say nothing about the worker.
_OURS = ("connection", "content-length", "expect", "transfer-encoding", "upgrade")


def _header(text: str) -> tuple[tuple[str, str], ...]:
    if not text.strip():
        return ()
    if "\r" in text or "\n" in text:
        raise ValueError("has a line break")
    name, colon, value = text.partition(":")
    name = name.strip()
    if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):  # RFC 9110, 5.6.2: token
        raise ValueError("is not Name: value")
    if name.lower() == "host":
        raise ValueError("is a setting of its own: host")
    if name.lower() in _OURS:
        raise ValueError(f"cannot be set: {name} is the probe's own")
    value = value.strip()
    if not re.fullmatch(r"[\t -~\x80-\xff]*", value):  # RFC 9110, 5.5: field-value
        raise ValueError("has a character that a header cannot carry")
    return ((name, value),)


def headers() -> Kind:
    """Headers of a request, one a line."""

    def write(pairs: tuple[tuple[str, str], ...]) -> str:
        return "\n".join(f"{name}: {value}" for name, value in pairs) or "none"

    return Kind("Name: value", "HEADER", _header, write, repeatable=True, secret=True)


def _backoff(text: str) -> Backoff:
    if text.strip() == "0":
        return Backoff(0.0, 0.0)
    first, _, longest = text.partition(":")
    try:
        value = Backoff(_seconds(first), _seconds(longest))
    except ValueError as problem:
        if "too long" in str(problem):
            raise
        raise ValueError("is not FIRST:LONGEST in seconds, nor 0") from None
    if not 0 < value.first_s <= value.longest_s:
        raise ValueError("needs a first figure above 0 and a second one that is not below it")
    return value


def backoff() -> Kind:
    """Two figures in seconds, or 0 for none."""

    def write(value: Backoff) -> str:
        return f"{plain(value.first_s)}:{plain(value.longest_s)}" if value.longest_s else "0"

    return Kind("FIRST:LONGEST in seconds, or 0", "S:S", _backoff, write)


def _budget(text: str) -> Budget:
    many, slash, window = text.partition("/")
    if not slash:
        raise ValueError("is not RESTARTS/SECONDS")
    try:
        restarts = None if re.fullmatch(r"max\(3,workers\)", re.sub(r"\s", "", many)) else _count(many)
    except ValueError:
        raise ValueError('does not begin with a whole number, 1 or more, or "max(3, workers)"') from None
    try:
        window_s = _seconds(window, at_least_s=1.0)
    except ValueError as problem:
        raise ValueError(f"has a window that {problem}") from None
    return Budget(restarts, window_s)


def budget() -> Kind:
    """So many in so many seconds."""

    def write(value: Budget) -> str:
        many = "max(3, workers)" if value.restarts is None else str(value.restarts)
        return f"{many}/{plain(value.window_s)}"

    return Kind("RESTARTS/SECONDS", "N/S", _budget, write)
