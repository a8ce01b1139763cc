"""Puts the tables of measured JSON files into ``docs/benchmarks.rst``, each between its two markers.

``python -m benchmarks.tables`` takes what is in ``benchmarks/results``, or the files that it is given.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.report import NONE, Table

PAGE = ROOT / "docs" / "benchmarks.rst"
RESULTS = ROOT / "benchmarks" / "results"
WIDTH = 120
TOLD = [  # whose versions a reader wants to know, in this order; all of them are in the file
    *("supervisor-uvicorn", "supervisor", "superlance", "supervisor-checks", "uvicorn", "uvicorn-worker", "gunicorn"),
    *("granian", "hypercorn", "circus", "uvloop", "httptools"),
]


def main() -> int:
    """0: written; 1: a file cannot be read, or the page has no place for it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", default=sorted(RESULTS.glob("*.json")))
    parser.add_argument("--page", type=Path, default=PAGE, help="where they are put")
    options = parser.parse_args()
    page = options.page.read_text(encoding="utf-8")
    for file in options.files:
        try:
            page = put(page, json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"{file}: {error!r}", file=sys.stderr)
            return 1
    options.page.write_text(page, encoding="utf-8")
    return 0


def put(page: str, measured: Mapping[str, Any]) -> str:
    """The page with the tables of one file. ValueError: it has no markers for that benchmark."""
    name = measured["benchmark"]
    begin, end = f".. begin {name}\n", f".. end {name}\n"
    before, found, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"the page has no '{begin.strip()}' and '{end.strip()}'")
    return f"{before}{begin}\n{section(measured)}\n{end}{after}"


def section(measured: Mapping[str, Any]) -> str:
    """What stands between the markers."""
    parts = [about(measured)]
    for values in measured["tables"]:
        table = Table(**values)
        rows = [[_cell(cell) for cell in row] for row in table.rows]
        lines = Table(table.title, table.columns, rows).lines()
        notes = _wrapped(_escaped(" ".join(table.notes)))
        parts.append("\n".join([f"**{_escaped(table.title)}**", "", *lines, *(["", notes] if notes else [])]))
    return "\n\n".join(parts) + "\n"


def about(measured: Mapping[str, Any]) -> str:
    """When, of what, on which machine."""
    machine = measured["machine"]
    memory = round(machine["memory_bytes"] / 1024**3)
    cores = f"{machine['cores']} cores ({machine['processor']}), {memory} GiB of memory"
    lines = [
        f"Measured on {measured['began'].partition(' ')[0]} at commit {commits(measured)}.",
        f"Machine: {cores}, {machine['kernel']}, Python {machine['python']}.",
        f"Versions: {', '.join(versions(measured['versions']))}.",
        "Options: " + ", ".join(f"{key} {_value(value)}" for key, value in measured["options"].items()) + ".",
    ]
    return "\n".join(_wrapped(_escaped(line)) for line in lines)


def commits(measured: Mapping[str, Any]) -> str:
    """Those of all runs: what was interrupted, and went on later, has several."""
    found = [run.get("commit", measured["commit"]) for run in measured["runs"]] or [measured["commit"]]
    return " and ".join(dict.fromkeys(one or "unknown" for one in found))


def versions(installed: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Name and version, both where two environments differ."""
    found = []
    for name in TOLD:
        its = sorted({of_one[name] for of_one in installed.values() if name in of_one})
        if its:
            found.append(f"{name} {' and '.join(its)}")
    return found


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _value(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _cell(text: str) -> str:
    """A lone hyphen would begin a list."""
    return "\\-" if text == NONE else _escaped(text)


def _escaped(text: str) -> str:
    return re.sub(r"([\\*`|]|_(?=\W|$))", r"\\\1", text)


if __name__ == "__main__":
    sys.exit(main())
