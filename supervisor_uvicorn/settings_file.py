"""Our sections in a file that is read as supervisor reads its own. Floor 0, and nothing of supervisor is imported.

From supervisor 4.3.0, options.py: ``UnhosedConfigParser`` (a RawConfigParser with inline ``;`` and ``#`` comments and
with doubled sections allowed, the later value winning; no interpolation) and ``ServerOptions.read_config`` (the
``[include]`` section: patterns beside the file, with ``%(here)s``, ``%(host_node_name)s`` and ``%(ENV_X)s``, each
pattern's files in order of their names). So our sections may stand in supervisord.conf, or beside a program in its
``conf.d``. supervisord itself ignores sections that it does not know.
"""

from __future__ import annotations

import configparser
import glob
import os
import platform
import stat
from collections.abc import Mapping
from dataclasses import dataclass

GENERAL = ""
"""The key of ``[supervisor-uvicorn]`` among the groups' sections."""

SECTION = "supervisor-uvicorn"


class SettingsError(ValueError):
    """A wrong value, for the eyes of the person who wrote it: where it stands, what it is, what to write instead."""


@dataclass(frozen=True)
class Written:
    """A setting as somebody wrote it: after ``flag``, or in the section that ``place`` names ("FILE, [SECTION]")."""

    key: str
    lines: tuple[str, ...]
    flag: str = ""
    place: str = ""

    @property
    def where(self) -> str:
        return self.flag or f"{self.place}, {self.key}"

    def error(self, problem: str, example: str) -> SettingsError:
        """The error for this value; ``problem`` goes on after the quoted value ("is not a number of seconds")."""
        value = " ".join(self.lines)
        shown = value if len(value) <= 80 else value[:77] + "..."
        shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in shown)
        if self.flag:
            quoted = f"'{example}'" if any(letter in example for letter in " ;#()*") else example
            instead = f"{self.flag} {quoted}"
        else:
            instead = f"{self.key}={example}"
        return SettingsError(f'{self.where}: "{shown}" {problem}; write for example {instead}')


def new_parser() -> configparser.RawConfigParser:
    """A parser with the options of supervisor's own (supervisor 4.3.0, options.py ``UnhosedConfigParser``)."""
    return configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)


def read_sections(file: str) -> dict[str, dict[str, Written]]:
    """What ``file`` and the files that it includes say of us, by group and by key.

    The group of the general section is :data:`GENERAL`.
    Raises :class:`SettingsError` where a file cannot be read or parsed, or has a section that is almost one of ours.
    """
    found: dict[str, dict[str, Written]] = {}
    parser = parse_file(file)
    _collect(parser, file, found)
    for included in included_files(parser, file):
        _collect(parse_file(included), included, found)
    return found


def parse_file(file: str) -> configparser.RawConfigParser:
    """``file`` parsed, without what it includes. Raises :class:`SettingsError` where it cannot be."""
    parser = new_parser()
    try:
        # Bytes that are no UTF-8 may stand in sections that are not ours.
        with open(file, encoding="utf-8", errors="surrogateescape", opener=_open_file) as stream:
            parser.read_file(stream, file)
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror}") from None
    except configparser.Error as error:
        raise SettingsError(f"{file}: is not a configuration file: {_why(error)}") from None
    return parser


def _open_file(file: str, flags: int) -> int:
    """A FIFO would be waited for until somebody writes into it, and a device for ever."""
    fd = os.open(file, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # of a directory open() says so itself
        os.close(fd)
        raise OSError(0, "it is no regular file")
    return fd


def _why(error: configparser.Error) -> str:
    """Without the lines that configparser quotes because it cannot read them: a secret may stand in one."""
    if isinstance(error, configparser.MissingSectionHeaderError):
        numbers = [error.lineno]
    elif isinstance(error, configparser.ParsingError):
        numbers = [number for number, _ in error.errors]
    else:
        return " ".join(str(error).split())
    some = ", ".join(map(str, numbers[:3])) + (", ..." if len(numbers) > 3 else "")
    return f"line {some} is neither [SECTION] nor KEY=VALUE"


def _collect(parser: configparser.RawConfigParser, file: str, found: dict[str, dict[str, Written]]) -> None:
    for section in parser.sections():
        name, colon, group = section.partition(":")
        if name.strip() != SECTION:
            if name.strip().lower().replace("_", "-") == SECTION:
                raise SettingsError(f"{file}, [{section}]: is ignored under this name; write [{SECTION}{colon}{group}]")
            continue
        group = group.strip()
        if colon and not group:
            raise SettingsError(f"{file}, [{section}]: names no group; write [{SECTION}:GROUP], or [{SECTION}] for all")
        place = f"{file}, [{section}]"
        values = found.setdefault(group, {})
        for key, value in parser.items(section):
            if parser.defaults().get(key) == value:
                continue  # [DEFAULT] speaks to every section; it does not speak to us
            # In a command= supervisor wants %%; whoever writes it here too means one.
            lines = tuple(line.replace("%%", "%") for line in value.split("\n") if line.strip()) or ("",)
            values[key] = Written(key, lines, place=place)


def included_files(parser: configparser.RawConfigParser, file: str) -> list[str]:
    """The files that the ``[include]`` section of ``file`` names and that exist, in supervisor's order.

    Raises :class:`SettingsError` where a pattern cannot be expanded.
    """
    patterns = parser.get("include", "files", fallback="")
    here = os.path.dirname(os.path.abspath(file))
    expansions: Mapping[str, str] = {
        "here": here,
        "host_node_name": platform.node(),
        **{f"ENV_{name}": value for name, value in os.environ.items()},
    }
    try:
        patterns = patterns % expansions
    except (KeyError, ValueError, TypeError, MemoryError) as error:  # the last: %(here)999999999999999s
        why = str(error) or "it is too long"
        raise SettingsError(f"{file}, [include], files: {patterns!r} cannot be expanded: {why}") from None
    try:
        return [name for pattern in patterns.split() for name in sorted(glob.glob(os.path.join(here, pattern))) if name]
    except ValueError as error:  # a NUL
        raise SettingsError(f"{file}, [include], files: {patterns!r} cannot be looked for: {error}") from None
