"""Which workers there should be now: supervisord says which processes, the kernel says what they are.

A process is a worker where it is uvicorn and watches a listening socket itself: the one that an ``[fcgi-program]``
handed it as ``--fd 0``, or one of its own (``--uds``, ``--host``/``--port``). Nothing is guessed from a configuration
file; the command that supervisord has for a name is asked only while the name has no process.

Where a supervised process does not watch the listening socket but a descendant does (``--workers``, ``--reload``,
``sh -c`` without ``exec``, ``uv run``), signalling the supervised one would not replace the sick one: named, not
watched.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .intentions import Intention
from .kernel import proc
from .kernel.errors import Exhausted, Gone, KernelError, Refused
from .kernel.sock_diag import Listening, SockDiag
from .model import Address, Member, Options, State
from .supervisord.calls import ProcessConfig, ProcessInfo
from .uvicorn_command import BELOW_A_WRAPPER, SERVED_BY_A_CHILD, Wanted, arguments, options, tree, wanted

TREE_LOOKS = 60
"""So many reads does a process that is not uvicorn get for a uvicorn to appear below it (a wrapper that starts
slowly)."""


@dataclass(frozen=True)
class _Known:
    """What was found out of one process; asked again while it is not settled, or when it has become another program."""

    argv: tuple[str, ...]
    is_uvicorn: bool
    options: Options = field(default_factory=Options)
    wanted: Wanted = field(default_factory=Wanted)
    socket: Address | None = None
    inode: int | None = None
    not_watched: str = ""
    settled: bool = False  # its listening socket is known and watched by itself, or it is not ours for good
    looks: int = 0


class Roster:
    """Reads the roster; remembers what it learned of each (pid, birth). Not thread-safe: it owns a
    :class:`SockDiag`.

    ``ours`` is what an earlier listener has taken down: members also without a process, even where their command does
    not show that it becomes uvicorn (``sh -c 'exec uvicorn ...'``).
    """

    def __init__(self, diag: SockDiag, groups: Sequence[str] = (), ours: Iterable[Intention] = ()) -> None:
        self._diag = diag
        self._groups = frozenset(groups)
        self._known: dict[tuple[int, int], _Known] = {}
        # names that were uvicorn, and how, for the time they have no process
        self._names: dict[str, _Known] = {mine.name: _taken_down(mine) for mine in ours}
        self._seen: dict[str, Member] = {}  # as last shown by the kernel, for a read for which we lack descriptors
        self.unsettled = False  # after a read: somebody's socket is not known yet, so read again soon

    def read(self, processes: Sequence[ProcessInfo], configs: Mapping[str, ProcessConfig]) -> tuple[Member, ...]:
        """One member for each uvicorn process of ``processes``; those of other groups than ours are left out.

        Never raises: of a process that the kernel does not show us the member has no ``born``, which is *unknown*.
        """
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
        self._seen = {member.name: member for member in members if member.worker is not None}
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
            known = alive[info.pid, born] = self._look_at(info.pid, born, config, survey)
        except Exhausted:  # our own want of descriptors or memory says nothing of the worker: as it was last seen
            self.unsettled = True
            return self._as_last_seen(base, alive) or self._without_process(base, config)
        except KernelError:  # gone in between, or hidden from us: RUNNING and unseen is unknown, never a verdict
            return self._without_process(base, config)
        if not known.is_uvicorn and (info.state is State.STARTING or not known.argv):
            # Between its fork and its exec a new process has supervisord's own command line; a zombie has none.
            return self._without_process(base, config)
        if not known.is_uvicorn:
            self._names.pop(info.name, None)  # it was one, and its command has been changed
            return None
        self._names[info.name] = known
        if not known.settled and not known.not_watched and info.state is State.RUNNING:
            self.unsettled = True
        return replace(
            base,
            born=born,
            socket=known.socket,
            socket_inode=known.inode,
            options=known.options,
            not_watched=known.not_watched,
        )

    def _as_last_seen(self, base: Member, alive: dict[tuple[int, int], _Known]) -> Member | None:
        before = self._seen.get(base.name)
        if before is None or before.born is None or before.pid != base.pid:
            return None
        if (known := self._known.get((before.pid, before.born))) is not None:
            alive[before.pid, before.born] = known
        return replace(
            before,
            state=base.state,
            start=base.start,
            stopwaitsecs=base.stopwaitsecs,
            killasgroup=base.killasgroup,
        )

    def _without_process(self, base: Member, config: ProcessConfig | None) -> Member | None:
        known = self._names.get(base.name)
        args = _configured(config)
        if args is not None and (known is None or not known.argv):
            socket = known.socket if known else None
            return replace(base, options=options(args, None), socket=socket, not_watched=tree(args, None))
        if known is None:
            return None
        return replace(base, options=known.options, socket=known.socket, not_watched=known.not_watched)

    def _look_at(self, pid: int, born: int, config: ProcessConfig | None, survey: _Survey) -> _Known:
        argv = tuple(proc.cmdline(pid))
        known = self._known.get((pid, born))
        if known is None or known.argv != argv or not (known.is_uvicorn or known.settled):
            known = self._first_look(pid, argv, known, config, survey)
        if known.settled:
            return known
        known = replace(known, looks=known.looks + 1)
        try:
            return survey.own_socket(pid, known) if known.is_uvicorn else survey.wrapper(pid, known)
        except Gone:
            raise
        except Refused:  # it is uvicorn by its command; its ticks can be watched all the same
            return replace(known, settled=known.looks >= TREE_LOOKS)
        except KernelError:  # our own want of descriptors or memory: another look
            return known

    def _first_look(
        self, pid: int, argv: tuple[str, ...], before: _Known | None, config: ProcessConfig | None, survey: _Survey
    ) -> _Known:
        """A new process, or one whose command line has become another: by exec, or by a title that it gave itself."""
        args = arguments(argv)
        if args is None:
            if before is not None and before.is_uvicorn and survey.watches(pid, before):
                return replace(before, argv=argv)
            # A title hides the command (setproctitle), so supervisord's own is believed where the sockets bear it out.
            titled = _configured(config)
            if titled is not None:
                environ = _environ(pid)
                known = _Known(argv, True, options(titled, environ), wanted(titled, environ))
                with contextlib.suppress(KernelError):
                    known = survey.own_socket(pid, known, descendants=False)
                if known.settled:
                    return known
            return _Known(argv, False, looks=before.looks if before else 0)
        environ = _environ(pid)
        why = tree(args, environ)
        return _Known(argv, True, options(args, environ), wanted(args, environ), not_watched=why, settled=bool(why))


def _taken_down(intention: Intention) -> _Known:
    """All that is known of a name that an earlier listener took down, until its first process is seen."""
    return _Known((), True, Options(fd=intention.fd), socket=intention.socket)


def _configured(config: ProcessConfig | None) -> Sequence[str] | None:
    try:
        return None if config is None else arguments(shlex.split(config.command))
    except ValueError:
        return None


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

    def watches(self, pid: int, known: _Known) -> bool:
        """Does that process itself watch the listening socket that is known of it?"""
        try:
            return known.inode is not None and known.inode in proc.epoll_watched_inodes(pid)
        except KernelError:
            return False

    def own_socket(self, pid: int, known: _Known, *, descendants: bool = True) -> _Known:
        """A uvicorn process: its listening socket, and whether it watches that itself."""
        watched = proc.epoll_watched_inodes(pid)
        inode = known.inode
        if inode is None and known.options.fd is not None:
            inode = proc.socket_inode(pid, known.options.fd)
        elif inode is None:
            inode = self._opened(pid, known.wanted, watched)
        if inode is not None and inode in self.listening:
            address = self.listening[inode].address
            if known.options.fd is None:
                address = _reachable(pid, address)
            known = replace(known, inode=inode, socket=address)
        if inode is not None and inode in watched:
            return replace(known, settled=known.socket is not None, not_watched="")
        if descendants and self._served_below(pid, inode, known.wanted):
            return replace(known, not_watched=SERVED_BY_A_CHILD)
        return replace(known, not_watched="")

    def _opened(self, pid: int, want: Wanted, watched: frozenset[int]) -> int | None:
        """The socket among ``watched`` that uvicorn has opened itself: an application may listen elsewhere as well."""
        return next((i for i in sorted(watched) if i in self.listening and want.fits(self.listening[i].address)), None)

    def wrapper(self, pid: int, known: _Known) -> _Known:
        """A process that is not uvicorn: named where a uvicorn serves below it, else none of ours."""
        for child in self.descendants(pid):
            try:
                if arguments(proc.cmdline(child)) is None:
                    continue
            except KernelError:
                continue
            return replace(known, is_uvicorn=True, settled=True, not_watched=BELOW_A_WRAPPER)
        return replace(known, settled=known.looks >= TREE_LOOKS)

    def _served_below(self, pid: int, inode: int | None, want: Wanted) -> bool:
        """A tree that the options do not show (an ``--env-file``, an environment that we may not read)."""
        for child in self.descendants(pid):
            try:
                watched = proc.epoll_watched_inodes(child)
            except KernelError:
                continue
            if inode in watched if inode is not None else self._opened(child, want, watched) is not None:
                return True
        return False


def _reachable(pid: int, address: Address) -> Address:
    """``--uds app.sock`` is a path in the worker's directory, not in ours."""
    if address.family != "unix" or address.path[:1] in ("/", "\0", ""):
        return address
    try:
        return replace(address, path=os.path.join(proc.cwd(pid), address.path))
    except KernelError:
        return address
