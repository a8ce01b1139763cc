"""All that can be found, and all that is looked for."""

from __future__ import annotations

from supervisor_uvicorn.doctor import foundation, listeners, live, own_settings, programs, rights, trees, versions
from supervisor_uvicorn.doctor.findings import Finding, Trap, in_order
from supervisor_uvicorn.doctor.site import Check, Site

FAMILIES: tuple[tuple[str, tuple[Trap, ...]], ...] = (
    ("The foundation", foundation.TRAPS),
    ("Programs", programs.TRAPS),
    ("Trees", trees.TRAPS),
    ("The listener", listeners.TRAPS),
    ("Settings of supervisor-uvicorn", own_settings.TRAPS),
    ("Rights", rights.TRAPS),
    ("A running supervisord", live.TRAPS),
    ("Versions", versions.TRAPS),
)

CATALOGUE: tuple[Trap, ...] = tuple(trap for _, traps in FAMILIES for trap in traps)

_OF_A_FILE: tuple[Check, ...] = (
    *foundation.CHECKS,
    *listeners.CHECKS,
    *own_settings.CHECKS,
    programs.fcgi_in_group,
    programs.shared_socket,
    rights.configured_users,
)
_OF_PROGRAMS: tuple[Check, ...] = (
    programs.restarts,
    programs.stops,
    programs.limits,
    programs.faulthandler,
    *trees.CHECKS,
    *versions.CHECKS,
)
_OF_PROCESSES: tuple[Check, ...] = (*live.CHECKS, rights.live_users, rights.core, foundation.no_interface)


def examine(site: Site) -> list[Finding]:
    """Every check that has something to look at in ``site``; the worst finding first."""
    configuration = site.configuration
    whole = configuration is not None and not configuration.partial
    checks = (*(_OF_A_FILE if whole else ()), *_OF_PROGRAMS, *_OF_PROCESSES)
    return in_order(finding for check in dict.fromkeys(checks) for finding in check(site))
