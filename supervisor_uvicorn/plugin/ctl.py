"""``[ctlplugin:uvicorn]``: the verbs as ``supervisorctl uvicorn VERB``, with supervisorctl's own way to supervisord.

    [ctlplugin:uvicorn]
    supervisor.ctl_factory = supervisor_uvicorn.plugin.ctl:make_controller_plugin

supervisorctl imports this module at each of its commands, and where that fails *none* of its commands works
(supervisor 4.3.0, options.py ``get_plugins``: "... cannot be resolved within [ctlplugin:uvicorn]", exit code 2). So
nothing of ours is imported here, but in the action itself. An exception that is no ``Exception`` would end an
interactive shell (supervisorctl.py ``onecmd``), and argparse knows only that way to end: it is caught.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from supervisor.supervisorctl import ControllerPluginBase

if TYPE_CHECKING:
    from supervisor_uvicorn.verbs.console import Console

COMMAND = "supervisorctl uvicorn"
VERBS = ("status", "restart", "pause", "resume", "reload", "history", "explain", "check")
_COMPLETION_S = 2.0  # somebody has pressed a key, and waits

_HELP = """\
uvicorn status [--json] [--watch] [NAME ...]\tWhat the listener knows of each worker
uvicorn restart [--timeout S] NAME ...\t\tReplace workers one by one, each when the one before is healthy
uvicorn pause [--for S] [NAME ...]\t\tLet the listener watch and report, and restart nobody (S: 90, 90s, 5m, 1h)
uvicorn resume [NAME ...]\t\t\tLet the listener act again
uvicorn reload					Let the listener read its settings file again
uvicorn history [--json] [NAME ...]\t\tWhat was done to which worker, and why
uvicorn explain [--json] NAME ...\t\tWhere a worker is right now: stack, memory; only beside supervisord
uvicorn check [--json] [--path P] [NAME ...]\tLook at the workers, live; only beside supervisord
uvicorn VERB --help\t\t\t\tEverything that VERB takes"""


def make_controller_plugin(controller: Any, **settings: str) -> UvicornPlugin:
    """The factory for ``supervisor.ctl_factory``; ``settings`` are the other keys of the section: there are none."""
    return UvicornPlugin(controller, settings)


class UvicornPlugin(ControllerPluginBase):  # type: ignore[misc]  # supervisor has no types
    """The action ``uvicorn``. supervisorctl sets ``name`` to that of the section."""

    def __init__(self, controller: Any, settings: dict[str, str]) -> None:
        super().__init__(controller)
        self._settings = settings
        controller.complete = _completer(controller, self)
        for plugin in controller.options.plugins:
            # Each plugin is asked in turn, and those before us would say "*** No help on uvicorn".
            if not hasattr(plugin, "help_uvicorn"):
                plugin.help_uvicorn = lambda: None

    def do_uvicorn(self, arg: str) -> None:
        """Carry out ``uvicorn ARG``. The exit code goes to the controller; a true result would end the shell."""
        for key in sorted(self._settings):
            print(f"[ctlplugin:{self.name}]: there is no setting {key}, so it does nothing", file=sys.stderr)
        try:
            self.ctl.exitstatus = self._run(arg)
        except BrokenPipeError:
            self.ctl.exitstatus = 1
        except KeyboardInterrupt:  # it would end the shell
            self.ctl.exitstatus = 130
        except ImportError as error:
            print(f"{COMMAND}: this installation of supervisor-uvicorn is not whole: {error}", file=sys.stderr)
            self.ctl.exitstatus = 2

    def help_uvicorn(self) -> None:
        """What ``help uvicorn`` shows."""
        self.ctl.output(_HELP)

    def do_help(self, arg: str) -> None:
        """``help`` alone lists our action; of a topic that is not ours the default plugin has spoken already."""
        if arg.strip() in ("", "uvicorn"):
            super().do_help(arg.strip())

    def complete_uvicorn(self, text: str, line: str) -> list[str]:
        """What can stand for ``text``, the last word of ``line`` so far: a verb, then names as supervisorctl has them.

        Raises nothing: readline would swallow it.
        """
        words = line.split()
        before = words[1:] if not text else words[1:-1]
        if not before:
            return [f"{verb} " for verb in VERBS if verb.startswith(text)]
        if before[0] not in VERBS:
            return []
        try:
            from supervisor_uvicorn.supervisord.rpc import Rpc

            if self.ctl._complete_info is None:  # supervisorctl's own cache, which it empties at each command
                with self._rpc(Rpc) as rpc:
                    answer = rpc.call("supervisor.getAllProcessInfo", idempotent=True, deadline_s=_COMPLETION_S)
                self.ctl._complete_info = answer
            found: list[str] = self.ctl._complete_processes(text)
        except Exception:  # noqa: BLE001 - a key that completes nothing is all that may come of it
            return []
        return found

    # -- the action

    def _run(self, arg: str) -> int:
        from supervisor_uvicorn.verbs.console import Console, Unwritable, silence

        out: TextIO | None = self.ctl.stdout
        try:
            words = shlex.split(arg)
            console = Console.of(out, command=COMMAND)
        except (ValueError, Unwritable) as error:
            print(f"{COMMAND} {arg}: {error}", file=sys.stderr)
            return 2
        printed = io.StringIO()  # argparse and `check` print, and know nothing of a stream that takes nothing
        with contextlib.redirect_stdout(printed):
            try:
                args = _parser().parse_args(words)
                code = self._check(args) if args.verb == "check" else None
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 2
        if code is None:
            return self._verb(args, console)
        try:
            if printed.getvalue():
                console.say(printed.getvalue())
        except BrokenPipeError:
            silence(console.out)
            return 1
        except Unwritable as error:
            print(f"{COMMAND}: {error}", file=sys.stderr)
            silence(console.out)
            return 2
        return code

    def _verb(self, args: argparse.Namespace, console: Console) -> int:
        if args.verb == "explain" and not _on_linux(args.verb):
            return 2
        from supervisor_uvicorn.supervisord.calls import Supervisord
        from supervisor_uvicorn.supervisord.rpc import Rpc, RpcError
        from supervisor_uvicorn.verbs.asking import OverRpc
        from supervisor_uvicorn.verbs.command import carry_out

        try:
            rpc = self._rpc(Rpc)
        except RpcError as error:
            print(f"{COMMAND} {args.verb}: {error}", file=sys.stderr)
            return 2
        with rpc:
            return carry_out(args, OverRpc(rpc), console, Supervisord(rpc))

    def _check(self, args: argparse.Namespace) -> int:
        if not _on_linux("check"):
            return 2
        from supervisor_uvicorn.check import run

        options = self.ctl.options
        args.configuration = None
        args.serverurl, args.username, args.password = options.serverurl, options.username, options.password
        return run(args, {})

    def _rpc(self, make: Callable[[str, str, str], Any]) -> Any:
        options = self.ctl.options
        return make(options.serverurl, options.username or "", options.password or "")


def _on_linux(verb: str) -> bool:
    if sys.platform.startswith("linux"):
        return True
    print(f"{COMMAND} {verb}: it looks at /proc, so it works on Linux, beside supervisord", file=sys.stderr)
    return False


def _parser() -> argparse.ArgumentParser:
    from supervisor_uvicorn.settings import CHECK_KEYS, add_flags
    from supervisor_uvicorn.verbs.command import NAMES, add_verbs

    top = _Parser(prog=COMMAND, allow_abbrev=False, description="uvicorn workers under supervisord")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    add_verbs(verbs, lambda _: None)
    check = verbs.add_parser("check", help="look at the workers, live; changes nothing", allow_abbrev=False)
    check.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    add_flags(check, only=CHECK_KEYS)
    check.add_argument("names", nargs="*", metavar="NAME", help=NAMES)
    return top


class _Parser(argparse.ArgumentParser):
    """Its subparsers are of the same kind."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {message}; see `help uvicorn`\n")


def _completer(controller: Any, plugin: UvicornPlugin) -> Callable[..., str | None]:
    """supervisorctl completes its own actions only (supervisorctl.py ``complete``), so that ours go around it."""
    original = controller.complete

    def complete(text: str, state: int, line: str | None = None) -> str | None:
        if line is None:
            import readline

            line = readline.get_line_buffer()
        words = line.split()
        if words[:1] == ["uvicorn"] and (len(words) > 1 or line.endswith(" ")):
            matches = plugin.complete_uvicorn(text, line)
            return matches[state] if state < len(matches) else None
        found: str | None = original(text, state, line)
        return found

    return complete
