"""What all tests share: where a figure is written down, and that Ctrl-C can be pressed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell has started us in its background, and what is ignored is ignored by every child as well (signal(7)): the
    # tests that press Ctrl-C would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Print figures, and append them as one JSON line to the file that ``SUPERVISOR_UVICORN_FIGURES`` names."""

    def write(**values: object) -> None:
        line = json.dumps({"test": request.node.name, **values})
        print(line)
        if path := os.environ.get("SUPERVISOR_UVICORN_FIGURES"):
            with Path(path).open("a") as file:
                file.write(line + "\n")

    return write
