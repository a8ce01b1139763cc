"""Writes ``docs/doctor.rst`` from the catalogue of what doctor finds; run it after a change."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from supervisor_uvicorn.doctor.catalogue import CATALOGUE, FAMILIES  # noqa: E402
from supervisor_uvicorn.doctor.findings import Trap  # noqa: E402

HEAD = """\
What doctor finds
=================

.. Written by docs/generate_doctor.py from supervisor_uvicorn/doctor: change it there.

``supervisor-uvicorn doctor`` looks for the known traps around uvicorn under supervisord, and says for each where it
stands, what is wrong, why it matters and what to write instead. It changes nothing, and runs and imports nothing of
what a file names::

    supervisor-uvicorn doctor                            # what supervisorctl would find, and what runs with it
    supervisor-uvicorn doctor -c /etc/supervisord.conf   # this file, what it includes, and what runs with it
    supervisor-uvicorn doctor -s unix:///run/supervisor.sock   # this supervisord, and the file that it runs with
    supervisor-uvicorn doctor --json                     # {"findings": [...]}

The exit code is 0 where nothing is found, 1 where something is, and 2 for wrong use or where there is nothing to look
at. So a build can ask it about a file before supervisord does.

A finding of ``--json`` has ``name`` (one of those below; it stays the same), ``severity``, ``file``, ``section``,
``line``, ``found`` (the very words), ``wrong``, ``why`` and ``write``; what is not known is null.

``error``
    Something does not work at all, or is open to everybody.
``warning``
    It fails on the day it is needed.
``advice``
    It works, and would be better so.

A file alone does not tell everything: variables that a container's image sets, ``supervisord -n`` on the command line,
who the processes run as. Beside a supervisord that runs, and as a user who may look at its processes, doctor takes
these from the kernel. ``%(ENV_X)s`` in a file stands for the variable of the supervisord that runs with it, else for
that of the shell that doctor is typed into.

"""


def describe(trap: Trap) -> str:
    """One trap: its name as a heading, and all that is known of it."""
    lines = [trap.name, "-" * len(trap.name), "", f"**{trap.severity}.** {trap.wrong} {trap.why}".replace("*.", "*.")]
    lines += ["", "Write instead:", "", ".. code-block:: ini", ""]
    lines += [f"    {line}" for line in trap.write.splitlines()]
    lines += ["", f":Source: {trap.cause}"]
    return "\n".join(lines).replace("`", "``").replace("````", "``") + "\n"


def page() -> str:
    """The whole page."""
    table = [".. list-table::", "   :header-rows: 1", "", "   * - finding", "     - severity", "     - what is wrong"]
    for trap in CATALOGUE:
        wrong = trap.wrong.replace("`", "``").replace("*", "\\*")
        table += [f"   * - `{trap.name}`_", f"     - {trap.severity}", f"     - {wrong}"]
    parts = [HEAD + "\n".join(table) + "\n"]
    for title, traps in FAMILIES:
        parts.append(f"{title}\n{'=' * len(title)}\n")
        parts += [describe(trap) for trap in traps]
    return "\n".join(parts)


if __name__ == "__main__":
    (HERE / "doctor.rst").write_text(page(), encoding="utf-8")
