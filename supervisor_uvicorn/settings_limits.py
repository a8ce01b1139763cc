"""What the limits of a worker take: a size, an age, a number of descriptors. Floor 0, beside settings_kinds.py."""

from __future__ import annotations

import re
from dataclasses import dataclass

from supervisor_uvicorn.settings_kinds import LONGEST_S, Kind, plain

LONGEST_AGE_S = 365 * LONGEST_S
SMALLEST_BYTES = 16 * 1024**2
"""An interpreter with uvicorn and nothing else takes 25 MB: what is below this was meant in another unit."""

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


@dataclass(frozen=True)
class MaxAge:
    """``least_s``, and for each worker up to ``jitter_s`` more."""

    least_s: float
    jitter_s: float


@dataclass(frozen=True)
class MaxFds:
    """A number of descriptors, or a share of the worker's own soft limit: one of both."""

    number: int | None = None
    share: float | None = None


def _size(text: str) -> int | None:
    if text.strip().lower() == "none":
        return None
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.ASCII | re.IGNORECASE)
    if not found:
        raise ValueError("is not a size")
    try:
        size_bytes = int(float(found[1]) * _UNITS[found[2].upper()])
    except OverflowError:  # hundreds of digits
        raise ValueError("is more than any machine has") from None
    if size_bytes < SMALLEST_BYTES:
        raise ValueError(f"is less than {_written_size(SMALLEST_BYTES)}, which no uvicorn fits in")
    return size_bytes


def _written_size(size_bytes: int | None) -> str:
    if size_bytes is None:
        return "none"
    unit = next(unit for unit in ("T", "G", "M", "K", "") if size_bytes % _UNITS[unit] == 0)
    return f"{size_bytes // _UNITS[unit]}{unit}B"


def size() -> Kind:
    """Bytes; the suffixes are powers of 1024, as in supervisor (4.3.0, datatypes.py ``SuffixMultiplier``)."""
    return Kind("a size, as 400MB or 1.5GB; or none", "SIZE", _size, _written_size)


def _age(text: str) -> MaxAge | None:
    if text.strip().lower() == "none":
        return None
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(?::\s*([0-9]+(?:\.[0-9]+)?)\s*)?", text, re.ASCII)
    if not found:
        raise ValueError("is neither SECONDS nor SECONDS:JITTER")
    least_s = float(found[1])
    jitter_s = least_s / 10 if found[2] is None else float(found[2])
    if least_s < 1:
        raise ValueError("is too short: at least 1 second")
    if least_s + jitter_s > LONGEST_AGE_S:
        raise ValueError(f"is too long: at most {plain(LONGEST_AGE_S)} seconds in all; for no limit write none")
    return MaxAge(least_s, jitter_s)


def age() -> Kind:
    """How old a worker may become, and how far its peers are spread."""

    def write(value: MaxAge | None) -> str:
        return "none" if value is None else f"{plain(value.least_s)}:{plain(value.jitter_s)}"

    return Kind("SECONDS or SECONDS:JITTER; or none", "S[:S]", _age, write)


def _descriptors(text: str) -> MaxFds | None:
    word = text.strip()
    if word.lower() == "none":
        return None
    if re.fullmatch(r"[0-9]{1,9}", word, re.ASCII) and int(word) >= 1:
        return MaxFds(number=int(word))
    found = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]+)?)\s*%", word, re.ASCII)
    if not found or not 0 < float(found[1]) <= 100:
        raise ValueError("is neither a whole number, 1 or more, nor a percentage up to 100%")
    return MaxFds(share=float(found[1]) / 100)


def descriptors() -> Kind:
    """How many descriptors a worker may have open."""

    def write(value: MaxFds | None) -> str:
        if value is None:
            return "none"
        return str(value.number) if value.share is None else plain(value.share * 100) + "%"

    return Kind("a whole number, or a share of the worker's own limit, as 80%; or none", "N|P", _descriptors, write)
