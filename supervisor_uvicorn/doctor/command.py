"""A ``command=`` line: is uvicorn in it, with which options, and will it be the supervised process itself? Pure."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from supervisor_uvicorn.uvicorn_command import arguments

_SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh", "ksh"})
_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})  # click 8, types.py ``BoolParamType``

# Programs that become the command that they are given (execve(2)), and how many of their own words to skip after them.
# poetry: src/poetry/utils/env/base_env.py ``Env.execute`` (os.execvpe, but on Windows); pipenv: os.execve as well.
_BECOMES: Mapping[tuple[str, ...], int] = {
    ("env",): 0,
    ("exec",): 0,
    ("nice",): 0,
    ("ionice",): 0,
    ("nohup",): 0,
    ("setpriv",): 0,
    ("stdbuf",): 0,
    ("chrt",): 0,
    ("taskset",): 1,
    ("gosu",): 1,
    ("su-exec",): 1,
    ("chpst",): 0,
    ("poetry", "run"): 0,
    ("pipenv", "run"): 0,
    ("rye", "run"): 0,
}
# Programs that stay, with the command as their child. uv: https://github.com/astral-sh/uv/issues/3095, open.
_STAYS: tuple[tuple[str, ...], ...] = (
    ("uv", "run"),
    ("uvx",),
    ("uv", "tool", "run"),
    ("conda", "run"),
    ("hatch", "run"),
    ("pdm", "run"),
    ("npm", "run"),
    ("sudo",),
    ("su",),
    ("runuser",),
    ("timeout",),
    ("dumb-init",),
    ("tini",),
    ("catchsegv",),
    ("strace",),
    ("ddtrace-run",),
    ("watchmedo",),
)
_OWN_VALUES = frozenset({"-n", "-c", "-p", "-u", "-g", "--with", "--extra", "--group", "--project", "--directory"})
_EXECS_TOO = frozenset({"ddtrace-run"})  # ddtrace/commands/ddtrace_run.py: os.execl


@dataclass(frozen=True)
class Command:
    """uvicorn in a command line. ``wrapper``: what stays above it as the supervised process, "" for nothing."""

    words: tuple[str, ...]  # the line from uvicorn's interpreter or script on
    args: tuple[str, ...]  # what follows uvicorn's name
    serve: bool  # `supervisor-uvicorn serve`
    wrapper: str = ""
    environ: tuple[tuple[str, str], ...] = ()  # env NAME=VALUE in front of it

    def option(self, name: str, environ: Mapping[str, str]) -> str | None:
        """The value of ``--name``; for a flag without value "1". uvicorn 0.54, main.py: the command line goes first."""
        flag, found = f"--{name}", None
        for at, word in enumerate(self.args):
            if word == flag:
                value = self.args[at + 1] if at + 1 < len(self.args) else "1"
                found = "1" if value.startswith("--") else value
            elif word.startswith(flag + "="):
                found = word[len(flag) + 1 :]
        if found is not None:
            return found
        return {**environ, **dict(self.environ)}.get("UVICORN_" + name.replace("-", "_").upper()) or None

    def flag(self, name: str, environ: Mapping[str, str]) -> bool:
        if f"--{name}" in self.args:
            return True
        value = {**environ, **dict(self.environ)}.get("UVICORN_" + name.replace("-", "_").upper(), "")
        return value.strip().lower() in _TRUE

    @property
    def faulthandler(self) -> bool:
        """``-X faulthandler`` or ``-X dev`` on Python's own command line (python(1))."""
        front = " ".join(self.words[: len(self.words) - len(self.args)])
        return bool(re.search(r"(^| )-X ?(faulthandler|dev)\b", front))


def understood(line: str) -> Command | None:
    """The uvicorn in ``line``; None where there is none to be seen.

    >>> understood("/venv/bin/uvicorn --fd 0 app:app").args
    ('--fd', '0', 'app:app')
    >>> understood("sh -c 'cd /srv && uvicorn --fd 0 app:app'").wrapper
    'sh -c'
    >>> understood("sh -c 'cd /srv && exec uvicorn --fd 0 app:app'").wrapper
    ''
    >>> understood("env A=1 poetry run uvicorn app:app").wrapper
    ''
    >>> understood("/usr/bin/cat /etc/uvicorn.conf") is None
    True
    """
    return _understood(_words(line), "", ())


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)  # as supervisor 4.3.0, process.py ``get_execv_args``
    except ValueError:
        return line.split()


def _understood(words: list[str], wrapper: str, environ: tuple[tuple[str, str], ...]) -> Command | None:
    while words and re.fullmatch(r"[A-Za-z_]\w*=.*", words[0], re.DOTALL):
        name, _, value = words.pop(0).partition("=")
        environ = (*environ, (name, value))
    if not words:
        return None
    args = arguments(words)
    if args is not None:
        front = words[: len(words) - len(args)]
        serve = any(word.endswith(("supervisor-uvicorn", "supervisor_uvicorn", "_uvicorn.serve")) for word in front)
        return Command(tuple(words), tuple(args), serve, wrapper, environ)
    name = os.path.basename(words[0])
    if name in _SHELLS:
        return _in_shell(words, wrapper, environ)
    if name.startswith("python") and len(words) > 3 and words[1] == "-m":  # python -m poetry run uvicorn
        return _understood(words[2:], wrapper, environ)
    for known in (*_BECOMES, *_STAYS):
        if (name, *words[1 : len(known)]) == known:
            stays = known in _STAYS and name not in _EXECS_TOO
            rest = _skip_own(words[len(known) :], _BECOMES.get(known, 0))
            return _understood(rest, wrapper or (" ".join(known) if stays else ""), environ)
    return None


def _skip_own(words: Sequence[str], positional: int) -> list[str]:
    """Without the wrapper's own options and its first ``positional`` words."""
    rest = list(words)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option == "--":
            break
        if option in _OWN_VALUES and rest:
            rest.pop(0)
    return rest[positional:]


def _in_shell(words: list[str], wrapper: str, environ: tuple[tuple[str, str], ...]) -> Command | None:
    script = next(
        (following for word, following in pairwise(words[1:]) if re.fullmatch(r"-[a-z]*c[a-z]*", word)),
        None,
    )
    if script is None:
        return None
    parts = [part for part in re.split(r"&&|\|\||[;|\n&]", script) if part.strip()]
    for part in parts:
        inside = _words(part.strip())
        found = _understood(list(inside), "", environ)
        if found is not None:
            # bash 5.2 becomes its last command by itself; dash 0.5.12 does not, not even a lone one (both tried).
            last = part is parts[-1] and os.path.basename(words[0]) == "bash" and "|" not in script.replace("||", "")
            becomes = last or "exec" in inside[: len(inside) - len(found.args)]
            mine = found.wrapper or ("" if becomes else f"{os.path.basename(words[0])} -c")
            return Command(found.words, found.args, found.serve, wrapper or mine, found.environ)
    return None
