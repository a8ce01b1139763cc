"""What a person types. Each verb's code is imported only when that verb is used: ``listen`` must stay light."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def _listen(args: argparse.Namespace) -> int:
    from .listen import main

    return main(args)


def _check(args: argparse.Namespace) -> int:
    from .check import run

    return run(args)


def _verb(args: argparse.Namespace) -> int:
    from .verbs.command import run

    return run(args)


def _config(args: argparse.Namespace) -> int:
    from .config_page import run

    return run(args)


def _doctor(args: argparse.Namespace) -> int:
    from .doctor.run import run

    return run(args)


def parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    from . import __version__
    from .config_page import add_arguments
    from .settings import CHECK_KEYS, add_flags
    from .verbs.command import add_verbs
    from .verbs.healthcheck import add_arguments as add_healthcheck

    top = argparse.ArgumentParser(
        prog="supervisor-uvicorn",
        description="Keeps uvicorn workers alive, well and upgradable under supervisord.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)

    listen = verbs.add_parser(
        "listen",
        help="the event listener; supervisord starts it, from an [eventlistener:...] section",
        allow_abbrev=False,
    )
    add_flags(listen)
    listen.set_defaults(run=_listen)

    check = verbs.add_parser("check", help="look at the workers, live, by itself; changes nothing", allow_abbrev=False)
    check.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    add_flags(check, only=CHECK_KEYS)
    add_supervisord(check)
    check.add_argument("names", nargs="*", metavar="NAME", help="as in supervisorctl: web, web:*, web:web-0, all")
    check.set_defaults(run=_check)

    doctor = verbs.add_parser(
        "doctor",
        help="find the known traps in a configuration and on this machine, each with its mend",
        allow_abbrev=False,
    )
    doctor.add_argument("--json", action="store_true", help='one object, {"findings": [...]}, instead of text')
    add_supervisord(doctor)
    doctor.set_defaults(run=_doctor)

    add_verbs(verbs, _as_a_person)

    healthcheck = verbs.add_parser(  # main() knows it before it comes here; this is for --help
        "healthcheck", help="for a container's HEALTHCHECK or an exec probe: one line, and 0 or 1", allow_abbrev=False
    )
    add_healthcheck(healthcheck)
    add_supervisord(healthcheck)

    verbs.add_parser(
        "serve", help="uvicorn behind supervisord's socket, with a shutdown that drops nothing; takes uvicorn's options"
    )

    config = verbs.add_parser("config", help="print the sections to paste into supervisord.conf", allow_abbrev=False)
    add_arguments(config)
    config.set_defaults(run=_config)
    return top


def _as_a_person(verb: argparse.ArgumentParser) -> None:
    add_supervisord(verb)
    verb.set_defaults(run=_verb)


def add_supervisord(verb: argparse.ArgumentParser) -> None:
    """How a verb finds supervisord: supervisorctl's own options (supervisor 4.3.0, options.py ``ClientOptions``)."""
    verb.add_argument("-c", "--configuration", metavar="FILE", help="supervisord.conf with a [supervisorctl] section")
    verb.add_argument("-s", "--serverurl", metavar="URL", help="supervisord's own: unix:///path or http://host:port")
    verb.add_argument("-u", "--username", metavar="NAME")
    verb.add_argument("-p", "--password", metavar="PASSWORD")


def main(argv: Sequence[str] | None = None) -> int:
    """The console script. Returns the exit code; wrong use is 2, with the usage line (argparse)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["healthcheck"]:  # started every few seconds, and 0 or 1 whatever happens
        from .verbs.healthcheck import main as healthcheck

        return healthcheck(words[1:], add_supervisord)
    if not sys.platform.startswith("linux"):
        print("supervisor-uvicorn needs Linux: it reads /proc and asks the kernel through sock_diag", file=sys.stderr)
        return 2
    if words[:1] == ["serve"]:  # what follows is uvicorn's, and a worker carries nothing of the other verbs
        from .serve import main as serve

        return serve(words[1:])
    if words[:1] == ["listen"]:  # before it imports: by default HUP would end it
        from .hup import taken

        taken()
    args = parser().parse_args(words)
    code: int = args.run(args)
    return code
