"""The remedy thread: orders in, outcomes out. Floor 4, beside listen.py.

All remedies are carried out by this one thread over one connection to supervisord, a step of each at a time
(remedy.py), so that none of them waits for another and no two of them overlap in what they ask.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping

from . import remedy
from .exit_on import EXIT_CODE
from .helpers import HOLD_S
from .intentions import Intention, Intentions
from .ledger import Ours, Outcome, Reason, Remedy, Restart, Start
from .model import Member, State, WorkerId
from .report import events
from .settings import ListenSettings, Settings
from .supervisord.board import Board
from .supervisord.calls import Supervisord
from .supervisord.rpc import SHUTDOWN_STATE, Fault, Rpc, RpcError
from .watch import Snapshot


class Remedies:
    """What is under way. ``give``, ``keep_only``, ``release`` and ``left_over`` may be called from any thread.
    ``settings`` may be replaced; a remedy under way keeps those with which it was given.

    ``done`` is told each outcome; ``clock`` is :func:`time.monotonic`.
    """

    def __init__(
        self,
        settings: ListenSettings,
        intentions: Intentions,
        tell: Callable[[events.Event], None],
        done: Callable[[Outcome], None],
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self._intentions = intentions
        self._tell = tell
        self._done = done
        self._clock = clock
        self._orders: queue.SimpleQueue[Callable[[remedy.Tools], None]] = queue.SimpleQueue()
        self._under_way: list[tuple[float, remedy.Steps]] = []
        self._trouble = ""  # of the intentions, as last told
        self._held_starts: dict[str, str] = {}
        self._shown: tuple[frozenset[WorkerId], frozenset[str]] = frozenset(), frozenset()

    def give(self, order: Restart | Start, snapshot: Snapshot) -> None:
        """Have ``order`` carried out on the member that it names."""
        members = {member.name: member for member in snapshot.members}
        if isinstance(order, Start):
            down = members[order.name]
            self._orders.put(lambda tools: remedy.start(order, down, tools, self._held_starts))
            return
        member = members[order.worker.name]
        settings = self.settings.of(member.group)
        self._orders.put(lambda tools: self._begin(order, member, settings, tools))

    def show(self, turning: frozenset[WorkerId], paused: frozenset[str]) -> None:
        """What the last look has seen: whose event loop turns, and which groups and names are paused."""
        self._shown = turning, paused

    def _stands(self, order: Restart) -> tuple[str, str] | None:
        """Why an abort that was ordered is not to be carried out after all."""
        turning, paused = self._shown
        worker = order.worker
        if {worker.name, worker.group} & paused:
            return "paused", "until resume"
        return ("recovered", "its event loop turns again") if worker in turning else None

    def keep_only(self, names: frozenset[str]) -> None:
        """What else was written down is over."""
        self._orders.put(lambda _: self._intentions.keep_only(dict.fromkeys(names)))

    def release(self, group: str) -> None:
        """The socket of ``group`` need not be kept open any more."""
        self._orders.put(lambda tools: _release(group, tools))

    def hold(self, group: str) -> None:
        """What we took down in ``group`` is on its way back: keep its socket open for another while."""
        self._orders.put(lambda tools: _hold(group, tools))

    def leave(self, why: str) -> None:
        """Shut supervisord down: a program can no longer serve, and somebody else is to see it (``exit_on``)."""
        self._orders.put(lambda tools: _leave(why, tools))

    def run(self, rpc: Rpc) -> None:
        """The thread: all remedies, a step of each at a time; between steps it waits for the next order."""
        tools = remedy.Tools(Supervisord(rpc), self._intentions, self._tell, self._clock, self._stands, Board(rpc))
        while True:
            next_at = min((at for at, _ in self._under_way), default=None)
            try:
                wait_s = None if next_at is None else max(0.0, next_at - self._clock())
                self._orders.get(timeout=wait_s)(tools)
                continue
            except queue.Empty:
                pass
            now = self._clock()
            due = [entry for entry in self._under_way if entry[0] <= now]
            self._under_way = [entry for entry in self._under_way if entry[0] > now]
            for _, steps in due:
                try:
                    self._under_way.append((self._clock() + next(steps), steps))
                except StopIteration as end:
                    self._done(end.value)

    def _begin(
        self, order: Restart, member: Member, settings: Settings, tools: remedy.Tools, finish: bool = False
    ) -> None:
        if not finish:
            self._intentions.put(Intention.of(order, member))
        self._tell_of_intentions("cannot be written")
        steps = remedy.carry_out(order, member, settings, tools, finish=finish)
        self._under_way.append((self._clock(), steps))

    def _tell_of_intentions(self, what: str) -> None:
        trouble = self._intentions.trouble
        if trouble and trouble != self._trouble:
            lost = "what is under way is kept in memory alone, and a next listener would not finish it"
            self._tell(events.Error("", f"intentions {what}: {trouble}; {lost}", reason="intentions"))
        self._trouble = trouble

    def left_over(self, snapshot: Snapshot) -> dict[str, Ours]:
        """What an earlier listener had begun: finished where a signal was sent, judged anew where none was."""
        members = {member.name: member for member in snapshot.members}
        found: dict[str, Ours] = {}
        left = self._intentions.load()
        self._tell_of_intentions("cannot be read or written")
        for name, intention in left.items():
            member = members.get(name)
            if member is None:
                continue
            same = member.worker == intention.worker
            if same and not intention.signalled:
                continue
            if not same and member.state is State.STOPPED:
                continue
            found[name] = self._take_over(intention, member, same and member.state is State.RUNNING)
        self.keep_only(frozenset(found))
        if found:
            names = ", ".join(sorted(found))
            self._tell(events.Takeover("", f"an earlier listener left remedies unfinished: {names}; taken over"))
        return found

    def _take_over(self, intention: Intention, member: Member, under_way: bool) -> Ours:
        reason, kind = Reason(intention.reason), Remedy(intention.remedy)
        if under_way:
            order = Restart(intention.worker, kind, reason, intention.detail)
            settings = self.settings.of(member.group)
            self._orders.put(lambda tools: self._begin(order, member, settings, tools, finish=True))
        return Ours(intention.worker, self._clock(), reason, kind, intention.detail, under_way=under_way)


def groups_of(ours: Mapping[str, object] | frozenset[str]) -> frozenset[str]:
    """The groups of names."""
    return frozenset(name.partition(":")[0] for name in ours)


def _leave(why: str, tools: remedy.Tools) -> None:
    assert tools.board is not None  # run() gives one, whether or not supervisord has the plugin
    tools.tell(events.Leaving("", f"supervisord is shut down: {why}", reason="exit_on"))
    try:
        if not tools.board.leave(EXIT_CODE):
            lost = "its exit code will be 0: there is no [rpcinterface:uvicorn], or an older one"
            tools.tell(events.Error("", lost, reason="exit_on"))
    except Fault as fault:
        if fault.code != SHUTDOWN_STATE:  # somebody else was quicker
            tools.tell(events.Error("", f"supervisord could not be shut down: {fault}", reason="exit_on"))
    except RpcError as error:
        tools.tell(events.Error("", f"supervisord could not be shut down: {error}", reason="exit_on"))


def _hold(group: str, tools: remedy.Tools) -> None:
    try:
        if tools.board is not None:
            tools.board.hold(group, HOLD_S)
    except RpcError:  # it has no shared socket, or the operator has stopped it
        pass


def _release(group: str, tools: remedy.Tools) -> None:
    try:
        if tools.board is not None:
            tools.board.release(group)
    except RpcError:  # it ends by itself at its deadline, and a supervisord that does not answer is told elsewhere
        pass
