"""A supervisord.conf as values: what is written, where it stands, and what supervisord takes it for. Pure.

Supervisord's defaults are those of supervisor 4.3.0, options.py ``_processes_from_section`` and
``process_groups_from_parser``. A value that supervisord refuses counts as its default here: that supervisord refuses
the file is one finding, and the rest of the file is looked at all the same.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from supervisor_uvicorn.doctor.command import Command, understood

TRUE = ("yes", "true", "on", "1")  # supervisor 4.3.0, datatypes.py TRUTHY_STRINGS
BOARD_FACTORY = "supervisor_uvicorn.plugin.rpcinterface:make_rpcinterface"
_LISTEN = ("supervisor-uvicorn", "supervisor_uvicorn")


@dataclass(frozen=True)
class Value:
    """``text`` is expanded (``%(here)s`` and its kin), ``written`` as it stands in ``file``, at ``line``."""

    text: str
    written: str
    file: str = ""
    line: int = 0


@dataclass(frozen=True)
class Section:
    """One section, with all of its values; where it stands twice, the later value and the last place of it count."""

    name: str
    file: str = ""
    line: int = 0
    values: Mapping[str, Value] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return self.name.partition(":")[0].strip()

    @property
    def title(self) -> str:
        return self.name.partition(":")[2].strip()

    def text(self, key: str, default: str = "") -> str:
        value = self.values.get(key)
        return value.text.strip() if value else default

    def has(self, key: str) -> bool:
        return key in self.values

    def true(self, key: str, default: bool = False) -> bool:
        return self.text(key).lower() in TRUE if self.has(key) else default

    def number(self, key: str, default: int) -> int:
        try:
            return int(self.text(key, str(default)))
        except ValueError:
            return default

    def octal(self, key: str, default: int) -> int:
        try:
            return int(self.text(key, f"{default:o}"), 8)
        except ValueError:
            return default

    def environment(self) -> dict[str, str]:
        """``environment=`` as supervisor reads it (datatypes.py ``dict_of_key_value_pairs``); its readable part."""
        lexer = shlex.shlex(self.text("environment"))
        lexer.wordchars += "/.+-():"
        try:
            tokens = list(lexer)
        except ValueError:
            return {}
        found = {}
        for at in range(0, len(tokens) - 2, 4):
            key, equals, value = tokens[at : at + 3]
            if equals != "=":
                break
            found[key] = value.strip("'\"")
        return found


@dataclass(frozen=True)
class Program:
    """A ``[program:x]`` or ``[fcgi-program:x]`` that starts uvicorn."""

    section: Section
    command: Command
    environ: Mapping[str, str]  # what is known of it: supervisord's own, [supervisord]'s, its own
    group: str  # its own name, or that of the [group:...] that takes it

    @property
    def name(self) -> str:
        return self.section.title

    @property
    def fcgi(self) -> bool:
        return self.section.kind == "fcgi-program"

    @property
    def tcp(self) -> bool:
        return self.fcgi and self.section.text("socket").startswith("tcp:")

    @property
    def autorestart(self) -> str:
        """``true``, ``false`` or ``unexpected`` (supervisor 4.3.0, datatypes.py ``auto_restart``)."""
        text = self.section.text("autorestart", "unexpected").lower()
        return "true" if text in TRUE else "unexpected" if text == "unexpected" else "false"

    @property
    def zero_is_expected(self) -> bool:
        codes = self.section.text("exitcodes", "0").split(",")
        return "0" in [code.strip() for code in codes]

    @property
    def stopwaitsecs(self) -> int:
        return self.section.number("stopwaitsecs", 10)

    @property
    def killasgroup(self) -> bool:
        return self.section.true("killasgroup", self.section.true("stopasgroup"))

    def option(self, name: str) -> str | None:
        """uvicorn's option ``--name``, from its command line or from ``UVICORN_NAME``."""
        return self.command.option(name, self.environ)

    def number(self, name: str) -> int | None:
        try:
            return int(self.option(name) or "")
        except ValueError:
            return None


@dataclass(frozen=True)
class Live:
    """What a uvicorn was started with, as the kernel says: for a program whose command is a script."""

    line: str
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Configuration:
    """``refusal`` is supervisord's own message where it would not start with this file. ``partial``: made of what a
    running supervisord tells of its programs, so that what is absent is not known to be so."""

    file: str
    sections: tuple[Section, ...]
    refusal: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)  # of a running supervisord, where it may be read
    partial: bool = False
    live: Mapping[str, Live] = field(default_factory=dict)  # by group: what its uvicorn runs as, where one runs

    def of_kind(self, *kinds: str) -> Iterator[Section]:
        for section in self.sections:
            if section.kind in kinds:
                yield section

    def section(self, name: str) -> Section | None:
        return next((one for one in self.sections if one.name == name), None)

    @property
    def supervisord(self) -> Section:
        return self.section("supervisord") or Section("supervisord", self.file)

    @cached_property
    def group_of(self) -> Mapping[str, Section]:
        """The ``[group:...]`` of each program that is in one."""
        return {
            name.strip(): section
            for section in self.of_kind("group")
            for name in section.text("programs").split(",")
            if name.strip()
        }

    @cached_property
    def programs(self) -> tuple[Program, ...]:
        """Those that start uvicorn, as far as their command shows it."""
        found = []
        for section in self.of_kind("program", "fcgi-program"):
            own = section.environment()
            environ = {**self.environ, **self.supervisord.environment(), **own}
            group = self.group_of.get(section.title)
            name = group.title if group else section.title
            command = understood(section.text("command"))
            if command is None and name in self.live and group is None:  # a script, which became uvicorn
                command = understood(self.live[name].line)
                environ = {**environ, **self.live[name].environ}
            if command is not None:
                found.append(Program(section, command, environ, name))
        return tuple(found)

    @property
    def groups(self) -> set[str]:
        """Every group's name, as supervisord will know it."""
        inside = set(self.group_of)
        return {one.title for one in self.of_kind("group")} | {
            one.title for one in self.of_kind("program", "fcgi-program") if one.title not in inside
        }

    @cached_property
    def listeners(self) -> tuple[Section, ...]:
        """The ``[eventlistener:...]`` sections that run us."""
        return tuple(one for one in self.of_kind("eventlistener") if is_listener(one.text("command")))

    @property
    def has_board(self) -> bool:
        return any(one.text("supervisor.rpcinterface_factory") == BOARD_FACTORY for one in self.of_kind("rpcinterface"))


def is_listener(command: str) -> bool:
    """Does this command run ``supervisor-uvicorn listen``, wrapped or not?"""
    words = command.replace("'", " ").replace('"', " ").split()
    return any(word.rpartition("/")[2] in _LISTEN and following == "listen" for word, following in pairwise(words))


def listen_arguments(command: str) -> list[str]:
    """What stands behind ``listen``."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    return words[words.index("listen") + 1 :] if "listen" in words else []
