"""Writes ``docs/policy.rst`` from the essays and tables on top of the policy's own rooms; run it after a change."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from supervisor_uvicorn import brakes, limits, panic, policy, reconcile, rollout, verdict  # noqa: E402

HEAD = """\
Policy
======

.. Written by docs/generate_policy.py from the code that decides (supervisor_uvicorn/policy.py and its rooms): change it
   there.

What follows stands on top of the code that decides, and is the same text. The figures can be set: see
`Settings <settings.rst>`_. Whether it is true is tested: ``tests/unit/test_policy_*.py`` tell histories, and hold every
order against what is true in thousands of generated lives.

"""

ROOMS: tuple[tuple[str, ModuleType], ...] = (
    ("Who is restarted, and when not", policy),
    ("What is held of a worker", verdict),
    ("When too many answer wrong", panic),
    ("What we took down", reconcile),
    ("Rolling restarts", rollout),
    ("Limits", limits),
    ("Backoff and budget", brakes),
)


def section(title: str, room: ModuleType) -> str:
    """A docstring as it is, but that a table is moved to the margin and other indented lines are kept as they are.

    Names of code stand as text: docutils alone, without Sphinx, knows no role for them.
    """
    text = re.sub(r":[a-z]+:`~?([^`]+)`", r"``\1``", inspect.cleandoc(room.__doc__ or ""))
    blocks = text.split("\n\n")
    for index, block in enumerate(blocks):
        if block.startswith("    ="):
            blocks[index] = textwrap.dedent(block)
        elif block.startswith("    "):
            blocks[index - 1] += ":"
    return "\n\n".join([title, "-" * len(title), *blocks]).replace("\n\n-", "\n-", 1) + "\n"


def page() -> str:
    """The whole page."""
    return HEAD + "\n".join(section(title, room) for title, room in ROOMS)


if __name__ == "__main__":
    (HERE / "policy.rst").write_text(page(), encoding="utf-8")
