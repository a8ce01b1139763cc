"""``python3 tests/fuzz [options]``: the fuzzing in its own environment; ``--help`` for the options.

Run by its path it makes the environment that ``tests/run.py`` makes, with atheris where there is one for this Python,
and goes on there; run as a module (``PYTHONPATH=tests python -m fuzz``) it takes the interpreter as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__:
    from fuzz.campaign import main

    sys.exit(main(sys.argv[1:]))

import importlib
import os

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))
python = importlib.import_module("run").prepare("test,fuzz")
os.execve(python, [str(python), "-m", "fuzz", *sys.argv[1:]], {**os.environ, "PYTHONPATH": str(TESTS)})
