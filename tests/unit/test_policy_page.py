"""The page on the policy is the code's own text, and its table of brakes has every brake that the code knows."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from supervisor_uvicorn import holding, policy, reconcile, remedy

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_current() -> None:
    spec = importlib.util.spec_from_file_location("generate_policy", DOCS / "generate_policy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "policy.rst").read_text(encoding="utf-8") == module.page(), "run: python docs/generate_policy.py"


def test_every_brake_stands_in_the_table() -> None:
    files = [Path(str(module.__file__)) for module in (policy, holding)]
    source = "".join(file.read_text(encoding="utf-8").partition('"""\n\nfrom')[2] for file in files)
    brakes = set(re.findall(r'(?:return|else) \(?\s*"(\w+)",', source))
    brakes |= set(re.findall(r'_hold\(self\.group, "(\w+)"', source)) | {"dry_run", "budget"}
    brakes -= {"remedy"}  # its own remedy is under way: never told
    table = set(re.findall(r"^    (\w+) +(?:all|health|failing|drain|roll|limit) ", policy.__doc__ or "", re.MULTILINE))
    assert len(brakes) >= 8
    assert brakes <= table | {"trial"}
    assert table <= brakes | {"trial", "backoff"}


def test_the_figures_of_the_text_are_those_of_the_code() -> None:
    text = policy.__doc__ or ""
    longest_s = holding.CALLED_OFF_LONGEST_S
    assert f"{holding.CALLED_OFF_S:g} s after the remedy was called off, doubling to {longest_s:g} s" in text
    assert f"start_timeout + {holding.TRIAL_FIRST_S:g} s" in text
    assert f"EXITED for {reconcile.RESPAWN_S:g} s" in (reconcile.__doc__ or "")
    assert f"the old pid, {reconcile.DOUBT_S:g} s after" in (reconcile.__doc__ or "")
    assert remedy.GONE_AFTER_KILL_S == 5.0
