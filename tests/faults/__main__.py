"""``python3 tests/faults [options]``: the campaign in its own environment; ``--help`` for the options.

Run by its path it makes the environment that ``tests/run.py`` makes and goes on there; run as a module
(``PYTHONPATH=tests python -m faults``) it takes the interpreter as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__:
    from faults.campaign import main

    sys.exit(main(sys.argv[1:]))

import importlib
import os

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))
python = importlib.import_module("run").prepare("test")
os.execve(python, [str(python), "-m", "faults", *sys.argv[1:]], {**os.environ, "PYTHONPATH": str(TESTS)})
