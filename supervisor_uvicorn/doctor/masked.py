"""Command lines as they may be shown: what doctor prints may go into a ticket, or into the log of a build. Pure.

Of what a command can hold, secrets are looked for where they are usual: in options whose name says so, in ``--header``
(an ``Authorization`` perhaps), and in variables set within the command, of which every value is hidden.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

MASK = "***"

_OPTION = r"--(?:[\w-]*(?:password|passwd|secret|token)[\w-]*|header)"
_VALUE = r"""(?:\\"(?:(?!\\").)*\\"|"(?:\\.|[^"\\])*"|'[^']*'|\\.|[^\s"'\\])+"""
"""One word of a shell, quoted in parts or not; in a script that is quoted itself perhaps with ``\\"``."""
_QUOTED_WHOLE = re.compile(  # "NAME=a b"; but what follows `sh -c` is a script of many words
    rf"""(?<!c )(?<![\w=])(?P<quote>["'])(?P<name>[A-Za-z_]\w*|{_OPTION})=(?:(?!(?P=quote)).)*(?P=quote)""",
    re.DOTALL | re.IGNORECASE,
)
_SECRET_OPTION = re.compile(rf"(?<![\w-])(?P<option>{_OPTION})(?P<between>=|\s+)(?!--){_VALUE}", re.IGNORECASE)
_VARIABLE = re.compile(rf"(?<![\w=-])(?P<name>[A-Za-z_]\w*)={_VALUE}")


def masked(command: str) -> str:
    """``command``, or words that repeat one, without its secrets.

    >>> masked("env SECRET=abc A='b c' uvicorn --ssl-keyfile-password 'x y' --fd 0 app:app")
    'env SECRET=*** A=*** uvicorn --ssl-keyfile-password *** --fd 0 app:app'
    >>> masked("supervisor-uvicorn listen --header 'Authorization: Bearer abc' --path=/health")
    'supervisor-uvicorn listen --header *** --path=/health'
    >>> masked("sh -c 'SECRET=abc exec uvicorn --fd 0 app:app'")
    "sh -c 'SECRET=*** exec uvicorn --fd 0 app:app'"
    """
    text = _QUOTED_WHOLE.sub(lambda match: f"{match['quote']}{match['name']}={MASK}{match['quote']}", command)
    text = _SECRET_OPTION.sub(lambda match: f"{match['option']}{match['between']}{MASK}", text)
    return _VARIABLE.sub(lambda match: f"{match['name']}={MASK}", text)


def written(command: str, more: str = "") -> str:
    """The line ``command=`` to write, with ``more`` at its end, and a word on what is hidden in it."""
    text = masked(command)
    note = "" if text == command else f"; {MASK} stands for what is there now\n"
    return f"{note}command={text}{more}"


def masked_refusal(message: str, command: str) -> str:
    """argparse's ``message`` about ``command`` (Python, ``ArgumentParser.error``), or ours about a settings file:
    both repeat the value that they are about.

    Of what it did not know at all only the names of options are left: a value may stand there for want of an option.

    >>> masked_refusal("error: unrecognized arguments: --headr=X: abc", "listen '--headr=X: abc'")
    'error: unrecognized arguments: --headr=*** ***'
    """
    begin, unknown, words = message.partition("unrecognized arguments: ")
    if unknown:
        return begin + unknown + " ".join(map(_only_flag, words.split()))
    message = re.sub(r"""(\bheader: )(["']).*\2""", rf"\1{MASK}", message, flags=re.DOTALL)
    for value in sorted(_secrets(command), key=len, reverse=True):
        message = message.replace(repr(value), MASK).replace(value, MASK)
    return message


def _only_flag(word: str) -> str:
    name, equals, _ = word.partition("=")
    return name + (equals and equals + MASK) if re.fullmatch(r"--[A-Za-z][\w-]*", name) else MASK


def _secrets(command: str) -> Iterator[str]:
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if re.fullmatch(_OPTION, name, re.IGNORECASE):
            value = value if equals else " ".join(words[at + 1 : at + 2])
            if value:
                yield value
