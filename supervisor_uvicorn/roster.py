"""Which workers there should be now: supervisord says which processes, the kernel says what they are.

A process is a worker where it is uvicorn and watches a listening socket itself: the one that an ``[fcgi-program]``
handed it as ``--fd 0``, or one of its own (``--uds``, ``--host``/``--port``). Nothing is guessed from a configuration
file; the command that supervisord has for a name is asked only while the name has no process.

Where a supervised process does not watch the listening socket but a descendant does (``--workers``, ``--reload``,
``sh -c`` without ``exec``, ``uv run``), signalling the supervised one would not replace the sick one: named, not
watched.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from .kernel import proc
from .kernel.errors import Gone, KernelError, Refused
from .kernel.sock_diag import Listening, SockDiag
from .model import Address, Member, Options, State
from .supervisord.calls import ProcessConfig, ProcessInfo
from .uvicorn_command import arguments, options

TREE_LOOKS = 60
"""So many reads does a process that is not uvicorn get for a uvicorn to appear below it (a wrapper that starts
slowly)."""


@dataclass(frozen=True)
class _Known:
    """What was found out of one process; asked again while it is not settled, or when it has become another program."""

    argv: tuple[str, ...]
    is_uvicorn: bool
    options: Options = field(default_factory=Options)
    socket: Address | None = None
    inode: int | None = None
    not_watched: str = ""
    settled: bool = False  # its listening socket is known and watched by itself, or it is not ours for good
    looks: int = 0


class Roster:
    """Reads the roster; remembers what it learned of each (pid, birth). Not thread-safe: it owns a
    :class:`SockDiag`."""

    def __init__(self, diag: SockDiag, groups: Sequence[str] = ()) -> None:
        self._diag = diag
        self._groups = frozenset(groups)
        self._known: dict[tuple[int, int], _Known] = {}
        self._names: dict[str, Options] = {}  # names that were uvicorn, and how, for the time they have no process
        self.unsettled = False  # after a read: somebody's socket is not known yet, so read again soon

    def read(self, processes: Sequence[ProcessInfo], configs: Mapping[str, ProcessConfig]) -> tuple[Member, ...]:
        """One member for each uvicorn process of ``processes``; those of other groups than ours are left out."""
        survey = _Survey(self._diag)
        members = []
        alive: dict[tuple[int, int], _Known] = {}
        self.unsettled = False
        for info in processes:
            if self._groups and info.name.partition(":")[0] not in self._groups:
                continue
            member = self._member(info, configs.get(info.name), survey, alive)
            if member is not None:
                members.append(member)
        self._known = alive
        names = {info.name for info in processes}
        self._names = {name: known for name, known in self._names.items() if name in names}
        return tuple(members)

    def _member(
        self,
        info: ProcessInfo,
        config: ProcessConfig | None,
        survey: _Survey,
        alive: dict[tuple[int, int], _Known],
    ) -> Member | None:
        base = Member(info.name, info.state, info.pid, None, info.start)
        if config is not None:
            base = replace(base, stopwaitsecs=config.stopwaitsecs, killasgroup=config.killasgroup)
        if not info.pid:
            return self._without_process(base, config)
        try:
            born = proc.born(info.pid)
            known = self._look_at(info.pid, born, survey)
        except KernelError:  # gone in between, or hidden from us: RUNNING and unseen is unknown, never a verdict
            return self._without_process(base, config)
        alive[info.pid, born] = known
        if not known.is_uvicorn:
            return None
        self._names[info.name] = known.options
        if not known.settled and info.state is State.RUNNING:
            self.unsettled = True
        return replace(
            base,
            born=born,
            socket=known.socket,
            socket_inode=known.inode,
            options=known.options,
            not_watched=known.not_watched,
        )

    def _without_process(self, base: Member, config: ProcessConfig | None) -> Member | None:
        if base.name in self._names:
            return replace(base, options=self._names[base.name])
        if config is None:
            return None
        try:
            args = arguments(shlex.split(config.command))
        except ValueError:
            return None
        return None if args is None else replace(base, options=options(args, None))

    def _look_at(self, pid: int, born: int, survey: _Survey) -> _Known:
        argv = tuple(proc.cmdline(pid))
        known = self._known.get((pid, born))
        if known is None or known.argv != argv:
            args = arguments(argv)
            known = _Known(argv, args is not None)
            if args is not None:
                known = replace(known, options=options(args, _environ(pid)))
        if known.settled:
            return known
        known = replace(known, looks=known.looks + 1)
        try:
            return survey.own_socket(pid, known) if known.is_uvicorn else survey.wrapper(pid, known)
        except Refused:  # it is uvicorn by its command; its ticks can be watched all the same
            return replace(known, settled=known.looks >= TREE_LOOKS)


def _environ(pid: int) -> dict[str, str] | None:
    try:
        return proc.environ(pid)
    except (Refused, Gone):
        return None


class _Survey:
    """What one read of the roster asks of the whole machine, each at most once."""

    def __init__(self, diag: SockDiag) -> None:
        self._diag = diag
        self._listening: dict[int, Listening] | None = None
        self._table: dict[int, proc.Kin] | None = None

    @property
    def listening(self) -> dict[int, Listening]:
        if self._listening is None:
            try:
                self._listening = self._diag.listening()
            except KernelError:  # no sock_diag here: said by the self test; ticks remain
                self._listening = {}
        return self._listening

    def descendants(self, pid: int) -> list[int]:
        if self._table is None:
            self._table = proc.process_table()
        return proc.descendants(pid, self._table)

    def own_socket(self, pid: int, known: _Known) -> _Known:
        """A uvicorn process: its listening socket, and whether it watches that itself."""
        watched = proc.epoll_watched_inodes(pid)
        inode = known.inode
        if inode is None and known.options.fd is not None:
            inode = proc.socket_inode(pid, known.options.fd)
        elif inode is None:
            inode = next((found for found in sorted(watched) if found in self.listening), None)
        if inode is not None and inode in self.listening:
            known = replace(known, inode=inode, socket=self.listening[inode].address)
        if inode is not None and inode in watched:
            return replace(known, settled=known.socket is not None, not_watched="")
        child = self._serving_descendant(pid, inode)
        if child is None:
            return known
        return replace(
            known,
            settled=True,
            not_watched=f"its child process {child} serves, not pid {pid} itself (--workers or --reload): "
            "let supervisord start the workers, with numprocs= and one uvicorn process each",
        )

    def wrapper(self, pid: int, known: _Known) -> _Known:
        """A process that is not uvicorn: named where a uvicorn serves below it, else none of ours."""
        for child in self.descendants(pid):
            try:
                if arguments(proc.cmdline(child)) is None:
                    continue
            except KernelError:
                continue
            return replace(
                known,
                is_uvicorn=True,
                settled=True,
                not_watched=f"uvicorn runs below it, as pid {child}: write `exec` before uvicorn in its command, "
                "or start uvicorn without the wrapper",
            )
        return replace(known, settled=known.looks >= TREE_LOOKS)

    def _serving_descendant(self, pid: int, inode: int | None) -> int | None:
        for child in self.descendants(pid):
            try:
                watched = proc.epoll_watched_inodes(child)
            except KernelError:
                continue
            if inode in watched if inode is not None else any(found in self.listening for found in watched):
                return child
        return None
