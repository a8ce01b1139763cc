"""``supervisor-uvicorn serve``: uvicorn, with the right socket family and a shutdown that drops nothing.

The options are uvicorn's, read by uvicorn's own command; only the server that its ``run`` makes is ours
(:mod:`.serving.server`). Nothing else of this package is imported: this runs as the worker, once for each.
"""

from __future__ import annotations

import sys

PROGRAM = "supervisor-uvicorn serve"


def main(argv: list[str]) -> int:
    """Serve, with ``argv`` being everything behind ``serve``, and return the exit code.

    Exit codes are those of the uvicorn that is installed: 3 where it does not start, and death by the signal that
    stopped it (uvicorn 0.30 to 0.54, server.py ``capture_signals``), so that this does not return. 2 for wrong use,
    1 where uvicorn is missing, too old, or changed in what is relied upon.
    """
    from .serving import inside

    try:
        uvicorn_main = inside.main_module()
    except ModuleNotFoundError as error:
        if error.name not in {"uvicorn", "click", "h11"}:
            raise
        print(f"{PROGRAM}: {error.name} is not installed for {sys.executable}: pip install uvicorn", file=sys.stderr)
        return 1
    except inside.ChangedError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    from .serving.server import DrainingServer

    uvicorn_main.Server = DrainingServer  # type: ignore[attr-defined]
    try:
        uvicorn_main.main(args=list(argv), prog_name=PROGRAM)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
