"""Which inputs are worth keeping: those with which a line of the product is reached by a way that no other takes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz.target import Target

_PACKAGE = str(Path(__file__).parents[2] / "supervisor_uvicorn")
_Arc = tuple[str, int, int]  # file, line before, line


def distilled(target: Target, inputs: Iterable[bytes]) -> list[bytes]:
    """Those of ``inputs`` that add something to the seeds and to each other, the shortest first."""
    kept: list[bytes] = []
    with target.session() as check:
        seen: set[_Arc] = set()
        for data in target.seeds:
            seen |= _arcs(check, data)
        for data in sorted(set(inputs) - set(target.seeds), key=lambda one: (len(one), one)):
            new = _arcs(check, data) - seen
            if new:
                seen |= new
                kept.append(data)
    return kept


def _arcs(check: Any, data: bytes) -> set[_Arc]:
    found: set[_Arc] = set()

    def enter(frame: FrameType, event: str, _: Any) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(_PACKAGE):
            return None
        before = 0

        def line(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal before
            if event == "line":
                found.add((file, before, frame.f_lineno))
                before = frame.f_lineno
            return line

        return line

    sys.settrace(enter)
    try:
        check(data)
    except Exception:  # noqa: BLE001 - whether it may be raised is not asked here
        pass
    finally:
        sys.settrace(None)
    return found
