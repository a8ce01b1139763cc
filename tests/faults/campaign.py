"""The command: several arenas at once, a JSON line for each fault, a summary, and 1 where anything was wrong."""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import random
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from harness import interpreter

from faults import rounds
from faults.arena import LISTEN, Arena, Interrupted, arena
from faults.oracle import Judgement
from faults.plan import SOCKETS, Round, plan
from faults.surroundings import possible

QUIET_S = 10.0
ROUNDS_BROKEN = 3  # so many in one arena that could not be played to their end, and it is given up


@dataclasses.dataclass
class Summary:
    """What the campaign found, in all arenas together."""

    faults: int = 0
    void: int = 0
    right: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)
    answered: int = 0
    lost_with_the_sick: int = 0
    lost_with_the_ended: int = 0
    kinds: Counter[str] = dataclasses.field(default_factory=Counter)
    took_s: dict[str, list[float]] = dataclasses.field(default_factory=dict)  # alone and undisturbed


class Campaign:
    """Plays the plan of ``seed`` on each socket; ``out`` gets the JSON lines, ``tell`` one line of text a round."""

    def __init__(
        self, seed: int, faults: int, sockets: Sequence[str], out: TextIO | None = None, logs: Path | None = None
    ) -> None:
        self.seed, self.sockets = seed, sockets
        self.stop = threading.Event()
        self.summary = Summary()
        self._out, self._logs = out, logs
        self._lock = threading.Lock()
        self._playing = 0
        self._began = time.monotonic()
        share, more = divmod(faults, len(sockets))
        self.plans = {
            socket: plan(seed, socket, share + (number < more), possible(socket))
            for number, socket in enumerate(sockets)
        }

    def run(self) -> Summary:
        """To the end, or until ``stop`` is set."""
        threads = [threading.Thread(target=self._play, args=(socket,), name=socket) for socket in self.sockets]
        self._playing = len(threads)
        for thread in threads:
            thread.start()
        try:
            self._until_played()
        finally:
            self.stop.set()
            self._until_played()
        return self.summary

    def _until_played(self) -> None:
        # Not Thread.join: interrupted there, Python 3.11 takes a thread that still runs for one that has ended.
        while self._playing:
            time.sleep(0.1)

    def tell(self, line: str) -> None:
        """A line of progress."""
        print(f"{time.monotonic() - self._began:7.1f} s  {line}", flush=True)

    def _play(self, socket: str) -> None:
        try:
            with arena(socket, random.Random(f"{self.seed}:{socket}:proxy"), self.stop, self._logs) as its:
                try:
                    self._play_all(its)
                except Interrupted:
                    self._wrong(f"{socket}: interrupted")
                except Exception:  # noqa: BLE001 - here, or the harness would print all logs
                    self._wrong(f"{socket}: {traceback.format_exc()}")
        except Interrupted:
            self._wrong(f"{socket}: interrupted")
        except BaseException:  # noqa: BLE001 - one arena's end is not that of the others
            self._wrong(f"{socket}: {traceback.format_exc()}")
        finally:
            with self._lock:
                self._playing -= 1

    def _play_all(self, its: Arena) -> None:
        broken = 0
        for round_ in self.plans[its.socket]:
            try:
                judgement = rounds.play(its, round_)
            except Interrupted:
                raise
            except Exception:  # noqa: BLE001 - said, and the next round is played
                self._wrong(f"{its.socket} round {round_.number}: {traceback.format_exc()}")
                broken += 1
                if broken >= ROUNDS_BROKEN:
                    self._wrong(f"{its.socket}: given up")
                    return
            else:
                self._take(its.socket, round_, judgement)
        for what in rounds.wait_quiet(its, QUIET_S):
            self._wrong(f"{its.socket}: {what}")
        with self._lock:
            self.summary.answered += its.load.answered

    def _take(self, socket: str, round_: Round, judgement: Judgement) -> None:
        summary, beside = self.summary, _beside(round_)
        with self._lock:
            for line in judgement.faults:
                wrong, kind = line["wrong"], str(line["fault"])
                summary.faults += 1
                summary.kinds[kind] += 1
                if "void" in line:
                    summary.void += 1
                elif not wrong:
                    summary.right += 1
                if isinstance(line["took_s"], float) and len(round_.sick) == 1 and not beside:
                    summary.took_s.setdefault(kind, []).append(line["took_s"])
                self._write({"socket": socket, "round": round_.number, **line, "beside": beside})
            summary.kinds.update(beside)
            summary.lost_with_the_sick += judgement.lost_with_the_sick
            summary.lost_with_the_ended += judgement.lost_with_the_ended
            self._write(
                {
                    "socket": socket,
                    "round": round_.number,
                    "faults": len(judgement.faults),
                    "beside": beside,
                    "lost_with_the_sick": judgement.lost_with_the_sick,
                    "lost_with_the_ended": judgement.lost_with_the_ended,
                    "wrong": judgement.wrong,
                }
            )
        words = ", ".join(f"{line['fault']} {line['took_s']} s" for line in judgement.faults)
        with_ = f" with {', '.join(beside)}" if beside else ""
        self.tell(f"{socket:4} {round_.number:3}: {words}{with_}")
        where = f"{socket} round {round_.number}"
        for line in judgement.faults:
            for what in line["wrong"]:  # type: ignore[attr-defined]
                self._wrong(f"{where}: {line['fault']} of {line['worker']} (pid {line['pid']}) {what}")
        for what in judgement.wrong:
            self._wrong(f"{where}: {what}")

    def _wrong(self, what: str) -> None:
        with self._lock:
            self.summary.wrong.append(what)
            self._write({"wrong": [what]})
        self.tell(f"WRONG  {what}")

    def _write(self, line: dict[str, object]) -> None:
        if self._out is not None:
            print(json.dumps(line), file=self._out, flush=True)


def _beside(round_: Round) -> list[str]:
    found = [fault.what for fault in round_.harmless]
    return found if round_.surroundings is None else [*found, round_.surroundings.what]


def as_object(campaign: Campaign, seconds: float) -> dict[str, object]:
    """The summary for a file."""
    its = campaign.summary
    return {
        "summary": "faults",
        "seed": campaign.seed,
        "listen": LISTEN,
        "seconds": round(seconds),
        "python": platform.python_version(),
        **{key: interpreter.about()[key] for key in ("supervisor", "uvicorn")},
        "faults": its.faults,
        "right": its.right,
        "void": its.void,
        "wrong": its.wrong,
        "kinds": dict(sorted(its.kinds.items())),
        "alone_s": {kind: [min(took), max(took)] for kind, took in sorted(its.took_s.items())},
        "answered": its.answered,
        "lost_with_the_sick": its.lost_with_the_sick,
        "lost_with_the_ended": its.lost_with_the_ended,
    }


def main(arguments: Sequence[str]) -> int:
    """0: nothing was wrong; 1: something was; 2: wrong use."""
    parser = argparse.ArgumentParser(prog="python3 tests/faults", description=__doc__)
    parser.add_argument("--faults", type=int, default=210, help="workers made sick, in all (%(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="of the plan; by chance, and printed")
    parser.add_argument("--sockets", default=",".join(SOCKETS), help="some of %(default)s, all played at once")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="the JSON lines go there")
    parser.add_argument("--logs", type=Path, default=None, metavar="DIR", help="the logs of all arenas are kept there")
    parser.add_argument("--show", action="store_true", help="print the plan and do nothing")
    options = parser.parse_args(arguments)
    sockets = options.sockets.split(",")
    if options.faults < len(sockets) or not set(sockets) <= set(SOCKETS):
        parser.error(f"--sockets: some of {','.join(SOCKETS)}, and --faults at least one for each of them")
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    out = options.json.open("w") if options.json else None
    try:
        campaign = Campaign(seed, options.faults, sockets, out, options.logs)
        print(f"seed {seed}: {options.faults} faults on {', '.join(sockets)}", flush=True)
        if options.show:
            for socket, its in campaign.plans.items():
                for round_ in its:
                    print(socket, round_)
            return 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: campaign.stop.set())
        began = time.monotonic()
        campaign.run()
        found = as_object(campaign, time.monotonic() - began)
        if out is not None:
            print(json.dumps(found), file=out, flush=True)
    finally:
        if out is not None:
            out.close()
    print(json.dumps(found, indent=1))
    print(f"{found['right']} of {campaign.summary.faults} right, {len(campaign.summary.wrong)} wrong; seed {seed}")
    complete = campaign.summary.faults >= options.faults
    return 0 if complete and not campaign.summary.wrong else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
