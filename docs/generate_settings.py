"""Writes ``docs/settings.rst`` from the settings themselves; run it after a change."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from supervisor_uvicorn.settings import CHECK_KEYS, ENTRIES, Entry  # noqa: E402

HEAD = """\
Settings
========

.. Written by docs/generate_settings.py from supervisor_uvicorn/settings.py: change it there.

No setting is needed: ``supervisor-uvicorn listen`` finds every uvicorn worker by itself, and the defaults are those of
tools that have done the same for years.

Each setting is a flag of ``listen``, and a key in a file that ``--settings FILE`` names. FILE can be supervisord.conf
itself (supervisord leaves sections alone that it does not know), and what it includes is read too:

.. code-block:: ini

    [eventlistener:uvicorn-health]
    command=supervisor-uvicorn listen --settings %(here)s/supervisord.conf

    [supervisor-uvicorn]            ; every program
    path=/healthz
    silent_after=20

    [supervisor-uvicorn:reports]    ; this one
    silent_after=120                ; its handlers compute for long

A program's own section counts before the general section, that before a flag, that before the default. In the file,
``;`` and ``#`` after a blank begin a comment, as they do for supervisord. Durations are in seconds. A share is written
``50%`` or ``0.5``; on a ``command=`` line supervisord wants ``50%%``, and in our sections both do.

A wrong value ends the listener before it is READY, with a line like this one in its stderr log (here it is broken)::

    supervisord.conf, [supervisor-uvicorn:web], silent_after: "30s" is not a number of seconds; write for example
    silent_after=30

After a change of the file type ``supervisorctl uvicorn reload``, or send HUP to the listener: no restart is needed
(`operating <operating.rst>`_), but for those of which it says so below. What is wrong is refused whole then, and the
listener goes on with what it had. Flags stay as they are until the listener is started anew.

"""


def describe(entry: Entry) -> str:
    rows = [
        ("Default", f"``{entry.default}``"),
        ("Takes", entry.kind.unit),
        ("Example", f"``{entry.key}={entry.example}``"),
        ("Flag", f"``{entry.flag}``" + (", several times" if entry.kind.repeatable else "")),
        ("Stands in", "the general section" + (" only" if entry.scope == "listener" else ", or a program's own")),
        ("Precedent", entry.precedent),
    ]
    if entry.at_start:
        rows.append(("Takes effect", "when the listener starts; ``reload`` says so and leaves it as it is"))
    if entry.key in CHECK_KEYS:
        rows.insert(4, ("Also", f"``supervisor-uvicorn check {entry.flag}``"))
    lines = [entry.key, "-" * len(entry.key), "", entry.help, ""]
    lines += [f":{name}: {text}" for name, text in rows]
    return "\n".join(lines) + "\n"


def page() -> str:
    """The whole page."""
    table = [".. list-table::", "   :header-rows: 1", "", "   * - setting", "     - default", "     - takes"]
    for entry in ENTRIES:
        table += [f"   * - `{entry.key}`_", f"     - ``{entry.default}``", f"     - {entry.kind.unit}"]
    parts = [HEAD + "\n".join(table) + "\n"]
    for title, scope in (("Of the listener", "listener"), ("Of a program", "program")):
        parts.append(f"{title}\n{'=' * len(title)}\n")
        parts += [describe(entry) for entry in ENTRIES if entry.scope == scope]
    return "\n".join(parts)


if __name__ == "__main__":
    (HERE / "settings.rst").write_text(page(), encoding="utf-8")
