"""Checks for trees: commands under which another process serves than the one that supervisord started."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor_uvicorn.doctor.configuration import Program
from supervisor_uvicorn.doctor.findings import Finding, Trap
from supervisor_uvicorn.doctor.site import Site, at, where_option

_NOT_WATCHED = (
    "supervisord knows and signals the parent alone: the listener names such a process as not watched and never "
    "touches it, so a child that hangs stays. "
)

RELOAD = Trap(
    "reload",
    "warning",
    "uvicorn runs with --reload, so its child process serves.",
    _NOT_WATCHED + "A restart through supervisord also does what --reload does.",
    "; leave --reload out of command=",
    "uvicorn 0.54, main.py run",
)
WORKERS = Trap(
    "workers",
    "warning",
    "uvicorn starts worker processes of its own, and those serve.",
    _NOT_WATCHED + "uvicorn's own check of them is answered by a thread: of a blocked event loop it noticed nothing in "
    "60 s.",
    "numprocs=4\nprocess_name=%(program_name)s-%(process_num)d\n; and command= without --workers",
    "uvicorn 0.54, supervisors/multiprocess.py",
)
WEB_CONCURRENCY = Trap(
    "web-concurrency",
    "warning",
    "WEB_CONCURRENCY makes uvicorn start worker processes of its own, and those serve.",
    _NOT_WATCHED + "Platforms set it, and it counts wherever --workers is not given.",
    "command=uvicorn --workers 1 ...",
    "uvicorn 0.54, config.py Config.__init__",
)
WRAPPER = Trap(
    "wrapper",
    "warning",
    "A wrapper stays as the supervised process, and uvicorn is its child.",
    _NOT_WATCHED + "stopsignal goes to the wrapper, too, which may not pass it on.",
    "; write `exec` before uvicorn, or start it without the wrapper: command=/path/of/venv/bin/uvicorn ...",
    "tried: dash 0.5.12 stays even for a lone command; uv run waits for its child (astral-sh/uv issue 3095)",
)
ORPHANS = Trap(
    "tree-without-killasgroup",
    "warning",
    "When the parent is killed its children live on, and hold the socket.",
    "SIGKILL goes to one process. A TCP socket that a child still holds cannot be bound anew: supervisord ends with "
    "exit code 1 (seen with 4.3.0 and 4.2.5).",
    "stopasgroup=true\nkillasgroup=true",
    "supervisor 4.3.0, process.py Subprocess.kill; our experiments",
)

TRAPS = (RELOAD, WORKERS, WEB_CONCURRENCY, WRAPPER, ORPHANS)


def trees(site: Site) -> Iterator[Finding]:
    for program in site.configuration.programs if site.configuration else ():
        found = list(_tree(program))
        live = site.live(program.group)
        if found and live and not any(one.not_watched for one in live):
            continue  # as it runs it is none: the kernel knows more than the command
        yield from found
        if found and not program.killasgroup:
            key = "killasgroup" if program.section.has("killasgroup") else "stopasgroup"
            yield at(ORPHANS, program.section, key, found="" if program.section.has(key) else "no killasgroup=true")


def _tree(program: Program) -> Iterator[Finding]:
    section, command, environ = program.section, program.command, program.environ
    if command.flag("reload", environ):
        key, words = where_option(program, "reload") if "--reload" not in command.args else ("command", "--reload")
        yield at(RELOAD, section, key, found=words)
    elif program.option("workers"):
        if (program.number("workers") or 0) > 1:
            key, words = where_option(program, "workers")
            yield at(WORKERS, section, key, found=words)
    else:
        count = {**environ, **dict(command.environ)}.get("WEB_CONCURRENCY", "")
        if count.isdigit() and int(count) > 1:
            yield at(WEB_CONCURRENCY, section, "environment", found=f"WEB_CONCURRENCY={count}")
    if command.wrapper:
        yield at(WRAPPER, section, "command", detail=f"Here it is `{command.wrapper}`.")


CHECKS = (trees,)
