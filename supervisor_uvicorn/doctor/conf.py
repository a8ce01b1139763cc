"""Reads a supervisord.conf, with what it includes, into a :class:`Configuration`.

Twice: value by value, so that one wrong value hides no other trap, with the parser that supervisor uses
(``settings_file.new_parser``); and as a whole through supervisor's own ``ServerOptions``, which says whether
supervisord would start with it. Nothing of what the file names is imported or run.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from supervisor_uvicorn.doctor.configuration import Configuration, Section, Value
from supervisor_uvicorn.settings_file import included_files, parse_file

_HEADER = re.compile(r"\[(?P<name>.+)\]")  # configparser.RawConfigParser.SECTCRE
_KEY = re.compile(r"(?P<key>.*?)\s*[=:]")


def read(file: str, environ: Mapping[str, str], known: bool) -> Configuration:
    """``file`` and its includes. ``environ`` is what ``%(ENV_X)s`` stands for; ``known``: it is supervisord's own.

    Raises ``SettingsError`` where a file cannot be read or parsed.
    """
    parser = parse_file(file)
    files = [file, *included_files(parser, file)]
    found: dict[str, Section] = {}
    for one in files:
        parsed = parse_file(one)
        lines = _lines(one)
        for name in parsed.sections():
            before = found.get(name)
            values = dict(before.values) if before else {}
            for key, written in parsed.items(name):
                values[key] = Value(written, written, one, lines.get((name, key), 0))
            found[name] = Section(name, one, lines.get((name, ""), 0), values)
    supervisord = found.get("supervisord", Section("supervisord"))
    base = _expansions(file, environ)
    own = _expanded(supervisord, base).environment()
    base |= {f"ENV_{key}": value for key, value in own.items()}
    sections = tuple(_expanded(section, base | _own(section)) for section in found.values())
    return Configuration(file, sections, _refusal(file, environ), dict(environ) if known else {})


def _expansions(file: str, environ: Mapping[str, str]) -> dict[str, Any]:
    return {
        "here": os.path.dirname(os.path.abspath(file)),
        "host_node_name": platform.node(),
        **{f"ENV_{key}": value for key, value in environ.items()},
    }


def _own(section: Section) -> dict[str, Any]:
    """What supervisor expands in a program's section (supervisor 4.3.0, options.py), for the first process of it."""
    return {
        "program_name": section.title,
        "group_name": section.title,
        "process_num": section.number("numprocs_start", 0),
        "numprocs": section.number("numprocs", 1),
    }


def _expanded(section: Section, expansions: Mapping[str, Any]) -> Section:
    values = {}
    for key, value in section.values.items():
        here = os.path.dirname(os.path.abspath(value.file)) if value.file else expansions["here"]
        values[key] = replace(value, text=expand(value.written, {**expansions, "here": here}))
    return replace(section, values=values)


def expand(text: str, expansions: Mapping[str, Any]) -> str:
    """As supervisor 4.3.0, options.py ``expand``; what cannot be expanded stays as it is.

    >>> expand("%(here)s/%(nobody)s at 50%%", {"here": "/srv"})
    '/srv/%(nobody)s at 50%'
    """
    try:
        return text % expansions
    except (KeyError, ValueError, TypeError):
        pass

    def one(match: re.Match[str]) -> str:
        name = match["name"]
        return str(expansions[name]) if name in expansions else match[0]

    return re.sub(r"%\((?P<name>[^)]+)\)0?\d*[sd]", one, text).replace("%%", "%")


def _lines(file: str) -> dict[tuple[str, str], int]:
    """The line of each (section, key), and of each section's header under key "": the last one, as it counts."""
    found: dict[tuple[str, str], int] = {}
    section = ""
    with contextlib.suppress(OSError), open(file, encoding="utf-8", errors="surrogateescape") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip() or line[0].isspace() or line[0] in ";#":
                continue  # a continuation, or a comment
            if header := _HEADER.match(line):
                section = header["name"]
                found[section, ""] = number
            elif key := _KEY.match(line):
                found[section, key["key"].lower()] = number
    return found


def _refusal(file: str, environ: Mapping[str, str]) -> str:
    """What supervisord would say and end; "" where it would start, or where supervisor cannot be imported here.

    Plugins and result handlers are not imported: whether they can be is another question, and another Python's.
    """
    try:
        from supervisor.options import ServerOptions
    except ImportError:
        return ""
    options = ServerOptions()
    options.environ_expansions = {f"ENV_{key}": value for key, value in environ.items()}
    options.get_plugins = lambda *_: []
    options.import_spec = lambda spec: spec
    options.configfile = os.path.abspath(file)
    options.here = os.path.dirname(options.configfile)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            options.read_config(options.configfile)
    except ValueError as error:
        return _shortened(" ".join(str(error).split()))
    except Exception as error:  # noqa: BLE001 - supervisord would end with a traceback of it
        return _shortened(f"{type(error).__name__}: {error}")
    return ""


def _shortened(text: str) -> str:
    """supervisor lists every variable of the environment behind a name that is not there; and of ``environment=`` and
    ``command=`` it repeats the values, which may be secrets."""
    text = re.sub(r" Available names: .*", "", text)
    text = re.sub(r"Format string .* for '([^']*\b(?:environment|command))'", r"Format string ... for '\1'", text)
    text = re.sub(r"(key/value pairs in value) '.*'(?= in section|$)", r"\1 ...", text)
    return text if len(text) <= 300 else text[:297] + "..."
