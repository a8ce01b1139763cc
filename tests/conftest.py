"""What all tests share: nothing but where a figure is written down."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest


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
