"""The roster thread: who should be there, read anew at each event of supervisord. Floor 4, beside listen.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from .intentions import Intentions
from .kernel.errors import KernelError
from .kernel.sock_diag import SockDiag
from .model import Member
from .report import events
from .roster import Roster
from .settings import ListenSettings
from .supervisord.calls import ProcessConfig, Supervisord
from .supervisord.rpc import SHUTDOWN_STATE, Fault, Rpc, RpcError

UNSETTLED_S = 1.0  # between two rosters while somebody's listening socket is not known yet
ROSTER_S = 60.0  # without any event: TICK_60 is the longest period that serves
CONFIGS_S = 60.0  # stopwaitsecs and killasgroup may change by `update` without a change of names


class Wanted(Protocol):
    """Where a roster is asked for, and where it goes."""

    def wait_roster_wanted(self, at_most_s: float) -> None: ...

    def put_roster(self, members: tuple[Member, ...], at: float) -> None: ...

    def put_shutting_down(self, at: float) -> None: ...


class Rosters:
    """``clock`` is :func:`time.monotonic`. ``settings`` may be replaced, which the next roster sees."""

    def __init__(
        self,
        settings: ListenSettings,
        intentions: Intentions,
        tell: Callable[[events.Event], None],
        board: Wanted,
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self._intentions = intentions
        self._tell = tell
        self._board = board
        self._clock = clock

    def run(self, rpc: Rpc) -> None:
        """The thread."""
        groups = self.settings.groups
        roster = self._roster(groups)
        supervisord = Supervisord(rpc)
        configs: Mapping[str, ProcessConfig] = {}
        configs_at = 0.0
        failed = ""
        while True:
            self._board.wait_roster_wanted(UNSETTLED_S if roster.unsettled or failed else ROSTER_S)
            at = self._clock()
            if (wanted := self._groups(groups)) != groups:
                groups = wanted
                roster = self._roster(groups)
            try:
                processes = supervisord.processes()
                if at - configs_at > CONFIGS_S or any(info.name not in configs for info in processes):
                    configs, configs_at = supervisord.configs(), at
                self._board.put_roster(roster.read(processes, configs), at)
                if failed:
                    self._tell(events.Error("", "supervisord answers again", reason="supervisord"))
                failed = ""
            except Fault as fault:
                if fault.code == SHUTDOWN_STATE:  # an operator's doing, and no error
                    self._board.put_shutting_down(at)
                    failed = type(fault).__name__
                failed = self._tell_first(failed, fault)
            except (RpcError, KernelError) as error:
                failed = self._tell_first(failed, error)

    def _roster(self, groups: tuple[str, ...]) -> Roster:
        return Roster(SockDiag(), groups, self._intentions.load().values())

    def _groups(self, before: tuple[str, ...]) -> tuple[str, ...]:
        """Those that are to be watched, and those of ``before`` in which something that we took down is not back yet;
        empty: all."""
        wanted = self.settings.groups
        if not wanted or before == wanted:
            return wanted
        ours = {name.partition(":")[0] for name in self._intentions.load()}
        return (*wanted, *sorted(group for group in ours.difference(wanted) if not before or group in before))

    def _tell_first(self, failed: str, error: Exception) -> str:
        """Logged once a series (design, section 7)."""
        kind = type(error).__name__
        if failed != kind:
            self._tell(events.Error("", f"the roster cannot be read: {error}", reason="supervisord"))
        return kind
