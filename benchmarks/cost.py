"""What watching costs: CPU, memory, system calls, look duration and start-up, for 4 to 256 workers; beside the peers.

For each number of workers one site, in which the listeners are started one after the other, so that all of them see
the same workers; one at a time, and nobody sends a request. Up to 64 workers are real uvicorns; beside them, and for
256, small stand-ins (:mod:`benchmarks.standin`), because the figures of one kind are what grows with the number.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import processes
from harness.supervisord import Program, Supervisord, free_port
from harness.waiting import wait_for

from benchmarks import command, cost_measures, cost_tables, standin
from benchmarks.environments import CACHE, CHECKOUT, CannotInstall, Environment, prepare
from benchmarks.peers.supervised import on
from benchmarks.recipe import cpu_s, recipe
from benchmarks.report import Report, say
from supervisor_uvicorn.supervisord.rpc import RpcError

Run = dict[str, Any]

ENVIRONMENT = "cost"
REQUIREMENTS = (CHECKOUT, "supervisor", "uvicorn[standard]", "prometheus-client", "superlance", "supervisor_checks")
REAL, STAND_IN = "uvicorn", "stand-in"
FAILURES = (*command.RUN_FAILURES, RpcError, KeyError)

START_S = 240.0  # of a listener, until it has pinned all; how many it has by then is told
LOOKS_S = 15.0  # some 78 looks are enough for a mean
TRACE_S = 8.0
OWN_PULSE_LOOKS, OWN_FULL_LOOKS, OWN_FULL_EVERY_S = 50, 10, 1.0


@dataclasses.dataclass(frozen=True)
class Listener:
    """One ``[eventlistener]``. ``section`` is formatted with ``python``, ``port`` (the workers'), ``metrics``."""

    title: str
    options: str | None = None  # of ours
    tick_s: int = 5
    command: str = ""  # of a peer

    @property
    def ours(self) -> bool:
        """Is it, and not a peer's?"""
        return self.options is not None

    def section(self, name: str, python: Path, port: int, metrics: int) -> str:
        """For supervisord.conf; not started by itself."""
        extra, log = "autostart=false", Path("{scratch}", f"{name}.log")
        if self.options is not None:
            options = self.options.format(metrics=metrics)
            return Supervisord.listener_section(name, options, log, self.tick_s, extra) + "\n"
        line = self.command.format(bin=python.parent, port=port)
        events = f"events=TICK_{self.tick_s}"
        return "\n".join([f"[eventlistener:{name}]", f"command={line}", events, f"stderr_logfile={log}", extra, "", ""])


LISTENERS: Mapping[str, Listener] = {
    "ours": Listener("supervisor-uvicorn", ""),
    "path": Listener("supervisor-uvicorn --path", "--path /pid"),
    # less what `ours` takes, it is what looks at the pulse take, and nothing that comes with a TICK
    "quick": Listener("supervisor-uvicorn --pulse 0.2", f"--pulse {cost_tables.QUICK_PULSE_S:g}"),
    cost_tables.LOOKS: Listener(
        "supervisor-uvicorn --metrics", f"--pulse {cost_tables.QUICK_PULSE_S:g} --metrics 127.0.0.1:{{metrics}}"
    ),
    "httpok": Listener("httpok", command="{bin}/httpok -p nobody:nobody -t 10 http://127.0.0.1:{port}/pid"),
    "checks": Listener(
        "supervisor_checks", command="{bin}/supervisor_http_check -n web -g web -u /pid -p {port} -t 10 -r 3"
    ),
}
PEERS = ("httpok", "checks")


def main() -> int:
    """0: measured, whatever came out; 1: some run failed (see the file)."""
    command.end_on_term()
    options = _options()
    report = Report("cost", command.told(options))
    try:
        environment = prepare(ENVIRONMENT, REQUIREMENTS, options.cache, fresh=options.fresh)
        report.versions[ENVIRONMENT] = {name.replace("_", "-"): one for name, one in environment.versions.items()}
        for kind, sizes in ((REAL, options.real), (STAND_IN, options.standins)):
            for size in sizes:
                for run in site_of(kind, size, environment, options):
                    report.runs.append(run)
    except (CannotInstall, subprocess.SubprocessError) as error:
        say(f"cannot be installed: {error}")
        report.runs.append({"environment": ENVIRONMENT, "error": f"cannot be installed: {error}"})
    except KeyboardInterrupt:
        return command.INTERRUPTED
    finally:
        report.tables = cost_tables.tables(report.runs, {name: one.title for name, one in LISTENERS.items()})
        command.finish(report, options)
    return 1 if any("error" in run for run in report.runs) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where tables and every single run are written to")
    parser.add_argument("--cache", type=Path, default=CACHE, help="directory of the environment")
    parser.add_argument("--fresh", action="store_true", help="make it anew, with the newest versions")
    parser.add_argument("--real", type=int, nargs="*", default=[4, 16, 64], metavar="N", help="so many uvicorns")
    parser.add_argument("--standins", type=int, nargs="*", default=[4, 16, 64, 256], metavar="N", help="or stand-ins")
    parser.add_argument("--peers-at", type=int, default=4, metavar="N", help="beside so many uvicorns")
    parser.add_argument(
        "--only", nargs="+", choices=list(LISTENERS), default=list(LISTENERS), metavar="LISTENER",
        help="among " + ", ".join(LISTENERS),
    )  # fmt: skip
    parser.add_argument("--settle", type=float, default=15.0, metavar="S", help="before a listener is measured")
    parser.add_argument("--window", type=float, default=45.0, metavar="S", help="for which CPU time is measured")
    parser.set_defaults(lane=False)
    return parser.parse_args()


def site_of(kind: str, size: int, environment: Environment, options: argparse.Namespace) -> Iterator[Run]:
    """All runs with so many workers of this kind. One that fails is a run with ``error``."""
    base: Run = {"kind": kind, "workers": size}
    names = [name for name in options.only if name not in PEERS or (kind == REAL and size == options.peers_at)]
    metrics = free_port()
    try:
        with contextlib.ExitStack() as stack:
            program = _program(kind, size, environment, stack)
            port = int(program.url(Path()).rpartition(":")[2])
            stack.enter_context(on(environment.python))
            sections = [LISTENERS[name].section(name, environment.python, port, metrics) for name in names]
            if size > 100:  # supervisord holds five descriptors for each process
                sections.append("[supervisord]\nminfds=8192\n")
            site = stack.enter_context(recipe(environment, program, plugin=True, sections="\n" + "\n".join(sections)))
            before = site.pids("web")
            yield base | {"listener": "nobody"} | _window(site, None, options.window)
            say(f"{size} of {kind}: up, and measured with nobody watching")
            for name in names:
                run = base | {"listener": name}
                try:
                    run |= _measured(site, name, metrics, options)
                except FAILURES as error:
                    run["error"] = f"{type(error).__name__}: {error}"
                yield run
                _progress(run)
            yield from _own_looks(base, site)
            if site.pids("web") != before:
                raise AssertionError("a worker was replaced while nothing was wrong")
    except FAILURES as error:
        yield base | {"error": f"{type(error).__name__}: {error}"}
        say(f"{size} of {kind}: {error}")


def _program(kind: str, size: int, environment: Environment, stack: contextlib.ExitStack) -> Program:
    if kind == REAL:
        return Program(numprocs=size, uvicorn="--no-access-log")
    home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="su-standin-")))
    (home / "uvicorn").mkdir()
    (home / "uvicorn" / "__init__.py").touch()
    (home / "uvicorn" / "__main__.py").write_text(Path(standin.__file__).read_text())
    # without `site`, which reads what is installed: 256 of them start at once
    line = f"{environment.python} -S -m uvicorn --fd 0 stand:in"
    return Program(numprocs=size, command=line, environment={"PYTHONPATH": str(home)})


# --- one listener ---------------------------------------------------------------------------------------------------


def _measured(site: Supervisord, name: str, metrics: int, options: argparse.Namespace) -> Run:
    """Start it, measure, stop it."""
    listener, log = LISTENERS[name], site.scratch / f"{name}.log"
    workers = set(site.pids("web").values())
    began = time.monotonic()
    site.rpc.startProcess(name, False)
    try:
        run: Run = {}
        if listener.ours:
            with contextlib.suppress(AssertionError):  # where it takes longer, how many are is a figure as well
                wait_for(lambda: workers <= cost_measures.pinned(log), START_S, "all pinned", every_s=0.01)
                run["start_s"] = round(time.monotonic() - began, 3)
            run["pinned"] = len(workers & cost_measures.pinned(log))
        wait_for(lambda: site.rpc.getProcessInfo(name)["statename"] == "RUNNING", START_S, f"{name} RUNNING")
        pid = int(site.rpc.getProcessInfo(name)["pid"])
        run["start_cpu_s"] = round(cpu_s(pid), 4)
        time.sleep(options.settle)
        if name == cost_tables.LOOKS:
            run |= _looks(site, pid, metrics, min(LOOKS_S, options.window))
        else:
            run |= _window(site, pid, options.window)
        run |= dataclasses.asdict(cost_measures.memory(pid))
        run |= {"threads": processes.threads(pid), "descriptors": processes.descriptors(pid)}
        if name == cost_tables.LOOKS and cost_measures.can_trace():
            run |= _system_calls(site, pid, metrics)
        now = site.rpc.getProcessInfo(name)
        if now["pid"] != pid:
            raise AssertionError(f"{name} did not go on: {now['description']}")
        return run
    finally:
        with contextlib.suppress(*FAILURES):
            site.rpc.stopProcess(name)


def _window(site: Supervisord, pid: int | None, seconds: float) -> Run:
    """CPU seconds of everybody in so many seconds in which nothing happens but watching."""
    assert site.process is not None
    watched = {"supervisord": [site.process.pid], "workers": list(site.pids("web").values())}
    watched |= {"listener": [pid]} if pid is not None else {}
    began, before = time.monotonic(), {who: sum(map(cpu_s, pids)) for who, pids in watched.items()}
    time.sleep(seconds)
    took_s, after = time.monotonic() - began, {who: sum(map(cpu_s, pids)) for who, pids in watched.items()}
    return {"window_s": round(took_s, 3)} | {f"{who}_cpu_s": round(after[who] - before[who], 6) for who in watched}


def _looks(site: Supervisord, pid: int, metrics: int, seconds: float) -> Run:
    before = cost_measures.scrape(metrics)
    run = _window(site, pid, seconds)
    looks = cost_measures.scrape(metrics).since(before)
    if looks.mean_s is None:
        raise AssertionError("no look in the whole window")
    return run | {
        "looks": looks.count,
        "look_mean_s": round(looks.mean_s, 6),
        "looks_all_within_s": looks.all_within_s,
    }


def _system_calls(site: Supervisord, pid: int, metrics: int) -> Run:
    """For each look; of all that the listener does meanwhile, so the growth with the workers is what a look takes."""
    before = cost_measures.scrape(metrics)
    calls = cost_measures.system_calls(pid, TRACE_S, site.scratch)
    looks = cost_measures.scrape(metrics).since(before).count
    if not looks:
        raise AssertionError("no look while system calls were counted")
    return {
        "traced_looks": looks,
        "system_calls_a_look": round(sum(calls.values()) / looks, 2),
        "system_calls": dict(sorted(calls.items(), key=lambda one: -one[1])),
    }


# --- looks in this process --------------------------------------------------------------------------------------------


def _own_looks(base: Run, site: Supervisord) -> Iterator[Run]:
    """Each look by itself, which the histogram of a listener does not tell."""
    kinds: Sequence[tuple[str, str | None, int, float]] = (
        ("own pulse", None, OWN_PULSE_LOOKS, cost_tables.QUICK_PULSE_S),
        ("own full", "/pid", OWN_FULL_LOOKS, OWN_FULL_EVERY_S),
    )
    for name, path, count, every_s in kinds:
        run = base | {"listener": name}
        try:
            found = cost_measures.own_looks(site, path=path, count=count, every_s=every_s)
            run |= {
                "pinned": found.pinned,
                "acquired_s": round(found.acquired_s, 4),
                "acquiring_looks": len(found.acquiring_s),
                "longest_acquiring_look_s": round(max(found.acquiring_s), 4),
                "look_s": [round(one, 6) for one in found.wall_s],
                "look_median_s": round(statistics.median(found.wall_s), 6),
                "look_longest_s": round(max(found.wall_s), 6),
                "look_cpu_s": round(statistics.fmean(found.cpu_s), 9),
            }
        except FAILURES as error:
            run["error"] = f"{type(error).__name__}: {error}"
        yield run
        _progress(run)


def _progress(run: Run) -> None:
    told = run.get("error")
    if told is None and "window_s" in run:
        share = 100 * run["listener_cpu_s"] / run["window_s"]
        told = f"CPU {share:.3f} % of a core, {run['rss_bytes'] / 2**20:.1f} MiB"
        told += f", pinned {run['pinned']} after {run.get('start_s', START_S)} s" if "pinned" in run else ""
        told += f", a look {1000 * run['look_mean_s']:.2f} ms" if "look_mean_s" in run else ""
    elif told is None:
        told = f"a look {1000 * run['look_median_s']:.2f} ms, at most {1000 * run['look_longest_s']:.2f} ms"
    say(f"{run['workers']} of {run['kind']}, {run['listener']}: {told}")


if __name__ == "__main__":
    sys.exit(main())
