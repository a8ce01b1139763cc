"""Find supervisord as supervisorctl does, for the verbs that a person types."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Mapping

from .supervisord.rpc import Rpc


class NotFound(Exception):  # noqa: N818 - it reads as what it is
    """No way to supervisord is known; the message says what to write."""


def rpc_from(args: argparse.Namespace, env: Mapping[str, str]) -> Rpc:
    """The RPC client that ``-c``, ``-s``, ``-u``, ``-p`` ask for, else ``SUPERVISOR_SERVER_URL``, else
    supervisorctl's search path.

    Raises :class:`NotFound`, and :class:`RpcError` for a URL of a kind that supervisord does not have.
    """
    if not args.configuration and not args.serverurl and env.get("SUPERVISOR_SERVER_URL"):
        found = Rpc.from_environment(env)
        if not args.username and not args.password:
            return found
        return Rpc(env["SUPERVISOR_SERVER_URL"], args.username or "", args.password or "")
    if args.serverurl and not args.configuration:
        return Rpc(args.serverurl, args.username or "", args.password or "")
    options = _client_options(args)
    return Rpc(
        args.serverurl or str(options.serverurl),
        args.username or options.username or "",
        args.password or options.password or "",
    )


def _client_options(args: argparse.Namespace):  # type: ignore[no-untyped-def]  # supervisor has no types
    try:
        from supervisor.options import ClientOptions
    except ImportError as error:  # 4.2.5 without setuptools: it needs pkg_resources
        raise NotFound(
            f"supervisor cannot be imported here ({error}); supervisor 4.2.5 needs setuptools<82. "
            "Name supervisord's server instead: -s unix:///run/supervisor.sock"
        ) from error
    options = ClientOptions()
    options.get_plugins = lambda *_: []  # a [ctlplugin:...] that cannot be imported is no matter of ours
    said = io.StringIO()
    options.stderr = options.stdout = said  # it has the real ones from its import
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            options.realize(["-c", args.configuration] if args.configuration else [], doc="")
    except SystemExit:
        lines = [line for line in said.getvalue().splitlines() if line.startswith("Error:")]
        where = args.configuration or "the supervisord.conf on supervisorctl's search path"
        raise NotFound(
            f"{where}: {lines[0][7:] if lines else 'cannot be read'}. "
            "Name supervisord's server instead: -s unix:///run/supervisor.sock"
        ) from None
    return options
