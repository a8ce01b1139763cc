"""What is missing around a listener that cannot do its work, and the very lines that mend it.

The errors are seen where nobody watches: in the stderr log of a listener that supervisord starts again and again. So
each one says the section and the line, and nothing has to be looked up.
"""

from __future__ import annotations

from collections.abc import Mapping

from supervisor_uvicorn.supervisord.rpc import UNKNOWN_METHOD, Fault, RpcError

LISTENER_SECTION = """\
[eventlistener:uvicorn-health]
command=supervisor-uvicorn listen
events=TICK_5,PROCESS_STATE,REMOTE_COMMUNICATION
buffer_size=100
autorestart=true
priority=-10
stdout_logfile=NONE
"""

SERVER_SECTION = """\
[unix_http_server]
file=/run/supervisor.sock
chmod=0700
"""

RPCINTERFACE_SECTION = """\
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""


def explain_absence(env: Mapping[str, str]) -> str | None:
    """What the environment lacks for a listener under supervisord, in words and sections; None if nothing.

    ``SUPERVISOR_ENABLED`` and ``SUPERVISOR_SERVER_URL`` are set by supervisord for every child, the second only where
    it has an RPC server (supervisor 4.3.0, process.py ``_spawn_as_child``).
    """
    if not env.get("SUPERVISOR_ENABLED"):
        return (
            "listen is not a command to type: it is an event listener, which supervisord starts and speaks to on "
            "stdin and stdout.\n"
            "Put this into supervisord.conf (`supervisor-uvicorn config` prints it right for this host), then "
            "`supervisorctl update`:\n\n"
            f"{LISTENER_SECTION}\n"
            "To look at the workers once, from here: supervisor-uvicorn check"
        )
    if not env.get("SUPERVISOR_SERVER_URL"):
        return (
            "this supervisord has no RPC server (SUPERVISOR_SERVER_URL is not set), so its processes can be neither "
            "listed nor replaced.\n"
            "Add to supervisord.conf, then restart supervisord:\n\n"
            f"{SERVER_SECTION}\n{RPCINTERFACE_SECTION}\n"
            "With another user= for the listener than supervisord's own: chmod=0770 and chown=USER:GROUP"
        )
    return None


def explain_failure(error: RpcError) -> str:
    """What to do about ``error``, met on the first calls to supervisord: its own words, and the section that mends it.

    Without ``[rpcinterface:supervisor]`` supervisord serves XML-RPC but knows no method of it: fault 1
    (supervisor 4.3.0, xmlrpc.py ``traverse``).
    """
    if isinstance(error, Fault) and error.code == UNKNOWN_METHOD:
        return (
            f"supervisord's RPC server does not know supervisor's own methods ({error}).\n"
            "Add to supervisord.conf, then restart supervisord:\n\n"
            f"{RPCINTERFACE_SECTION}"
        )
    return str(error)
