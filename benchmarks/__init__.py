"""Measurements beside the peers; each is a module: ``python -m benchmarks.NAME --help``, from the top of the checkout.

They run real servers with the application, the supervisord and the load of the tests. ``tests/harness`` is not an
installed package, so it is put on the path here, and nowhere else.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

if str(ROOT / "tests") not in sys.path:
    sys.path.insert(0, str(ROOT / "tests"))
