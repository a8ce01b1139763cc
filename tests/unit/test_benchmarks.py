"""What the benchmarks compute from what they measured: figures, tables, the page."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import command, recovery, recovery_tables, tables, upgrade, wrong_kills
from benchmarks.peers import hypercorn, supervised, uvicorn_workers
from benchmarks.report import Report, Table, percentile, summary

HUNG = {"part": "hang", "peer": "p", "title": "P", "kind": "sleep", "limit_s": 2.0, "cap_s": 60.0, "others": 0}
GONE = {**HUNG, "gone_s": 2.4, "new_pid_s": 2.5, "serving_s": 3.0, "right": True, "answered": True}
NEVER = {**HUNG, "gone_s": None, "new_pid_s": None, "serving_s": None, "right": False, "answered": False}
MACHINE = {"cores": 2, "processor": "a_b_ c", "memory_bytes": 2**33, "kernel": "Linux 6", "python": "3.11"}


@pytest.mark.parametrize(
    ("values", "percent", "wanted"),
    [([5.0], 99, 5.0), ([1.0, 2.0], 50, 1.5), ([3.0, 1.0, 2.0], 100, 3.0), ([1.0, 2.0, 3.0], 0, 1.0)],
)
def test_percentile(values: list[float], percent: float, wanted: float) -> None:
    assert percentile(values, percent) == wanted


def test_nothing_has_no_percentile() -> None:
    assert summary([]) is None
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_summary() -> None:
    found = summary([2.0, 1.0, 4.0])
    assert found is not None
    assert (found.count, found.lowest, found.median, found.highest, found.spread) == (3, 1.0, 2.0, 4.0, 3.0)


def test_a_table_is_aligned_and_has_no_empty_cell() -> None:
    table = Table("T", ["peer", "n"])
    table.add("longer than peer", 1)
    table.add("", 22)
    assert table.lines() == [
        "================  ==",
        "peer              n",
        "================  ==",
        "longer than peer  1",
        "-                 22",
        "================  ==",
    ]


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells in 2 columns"):
        Table("T", ["a", "b"]).add("x")


def row(runs: list[dict[str, Any]], title: str = "P") -> dict[str, str]:
    (table,) = recovery_tables.tables(runs)
    (cells,) = [cells for cells in table.rows if cells[0] == title]
    return dict(zip(table.columns, cells, strict=True))


def test_recovery_all_came() -> None:
    found = row([GONE, {**GONE, "new_pid_s": 3.5, "others": 1}, {**GONE, "new_pid_s": 2.75}])
    assert (found["shortest"], found["median"], found["longest"], found["spread"]) == ("2.50", "2.75", "3.50", "1.00")
    assert (found["runs"], found["right pid"], found["others ended"], found["serving"]) == ("3", "3 of 3", "1", "3.00")


def test_recovery_never() -> None:
    found = row([NEVER, NEVER])
    assert (found["longest"], found["right pid"], found["median"]) == ("never in 60 s", "0 of 2", "-")


def test_recovery_by_what_does_not_answer_is_shown() -> None:
    (table,) = recovery_tables.tables([GONE, {**GONE, "answered": False}])
    (cells,) = table.rows
    assert dict(zip(table.columns, cells, strict=True))["answered"] == "1 of 2"


def test_recovery_not_always_is_no_median() -> None:
    found = row([GONE, NEVER])
    assert (found["shortest"], found["median"], found["longest"]) == ("2.50", "-", "1 never in 60 s")


def test_recovery_failed_runs_are_counted_and_nothing_else() -> None:
    found = row([GONE, {**HUNG, "error": "no"}])
    assert (found["runs"], found["failed runs"], found["longest"]) == ("1", "1", "2.50")
    assert row([{**HUNG, "error": "no"}])["longest"] == "-"


def test_recovery_limits_that_are_refused_or_cannot_be_set() -> None:
    assert row([{**HUNG, "refused": "why"}])["shortest"] == "refused: why"
    assert row([{**NEVER, "limit_s": None}])["limit"] == "cannot be set"


def test_what_is_still_to_be_measured() -> None:
    options = argparse.Namespace(limits=[5.0, 1.0, 2.0], runs=1)
    ours = {**GONE, "peer": supervised.OURS_QUICK.name}
    assert recovery.missing(supervised.OURS_QUICK, "sleep", options, []) == [1.0, 2.0, 5.0]
    assert recovery.missing(supervised.OURS_QUICK, "sleep", options, [ours]) == [1.0, 5.0]
    assert recovery.missing(supervised.OURS_QUICK, "spin", options, [ours]) == [1.0, 2.0, 5.0]
    assert recovery.missing(uvicorn_workers.PEER, "sleep", options, [{**NEVER, "peer": "uvicorn-workers"}]) == [1.0]
    assert recovery.missing(hypercorn.PEER, "sleep", options, []) == [None]
    never = {**NEVER, "peer": "hypercorn", "limit_s": None}
    assert recovery.missing(hypercorn.PEER, "sleep", options, [never]) == []


def test_our_limit_takes_a_pulse_of_half_of_it() -> None:
    assert supervised.OURS.refuses(1.0)
    assert not supervised.OURS.refuses(2.0)
    assert not supervised.OURS_QUICK.refuses(1.0)


def test_wrongly_ended() -> None:
    run = {"part": "wrong", "peer": "p", "title": "P", "load": "saturation", "limit_s": 2.0, "seconds": 30.0}
    found = row([{**run, "requests": 120, "failed": 0, "busy": [0.01, 0.5], "ended": 2}])
    assert (found["wrongly ended"], found["busy"], found["limit"]) == ("2", "0.01 - 0.50", "2 s")


def test_what_wrk_says() -> None:
    said = (
        "  2 threads\n  500000 requests in 30.01s, 60MB read\n  Socket errors: connect 1, read 2, write 0, timeout 4\n"
    )
    assert wrong_kills.requests_of_wrk(said) == (500000, 7)
    assert wrong_kills.requests_of_wrk("  9 requests in 1s\n  Non-2xx or 3xx responses: 3\n") == (9, 3)
    assert wrong_kills.requests_of_wrk("nothing") == (0, 0)


def test_upgrade_adds_up_the_runs_of_a_peer() -> None:
    run = {"peer": "p", "title": "P", "how": "HUP", "kind": upgrade.NEW, "requests": 1000, "failed": 3, "refused": 1}
    run |= {"unanswered": 2, "cut": 0, "timeout": 0, "wrong": 0, "ours": 0, "longest_s": 0.5, "renewals_s": [2.0, 4.0]}
    other = {**run, "longest_s": 1.5, "renewals_s": [3.0, 3.0], "failed": 1, "refused": 0, "unanswered": 1}
    broken = {"peer": "p", "title": "P", "how": "HUP", "kind": upgrade.NEW, "error": "no"}
    (table,) = upgrade.tables([run, other, broken])
    (cells,) = table.rows
    found = dict(zip(table.columns, cells, strict=True))
    assert (found["requests"], found["failed"], found["unanswered"], found["failed each"]) == ("2000", "4", "3", "1.00")
    assert (found["longest wait"], found["duration"]) == ("1.50", "3.0 (2.0 - 4.0)")
    assert (found["runs"], found["failed runs"]) == ("2", "1")


def test_every_peer_has_a_name_of_its_own() -> None:
    for peers in (recovery.PEERS, upgrade.PEERS):
        assert len({peer.name for peer in peers}) == len({peer.title for peer in peers}) == len(peers)
    assert all(peer.renewal for peer in upgrade.PEERS)


# --- the page -------------------------------------------------------------------------------------------------------


def measured(**values: Any) -> dict[str, Any]:
    table = {
        "title": "About 'x'",
        "columns": ["a", "b"],
        "rows": [["web:*", "-"], ["-", "1"]],
        "notes": ["One.", "Two."],
    }
    return {
        "benchmark": "recovery",
        "began": "2026-11-22 14:00 UTC",
        "commit": "abc",
        "machine": MACHINE,
        "versions": {"one": {"uvicorn": "1", "other": "9"}, "two": {"uvicorn": "2", "circus": "3"}},
        "options": {"runs": 10, "limits": [1, 2]},
        "tables": [table],
        "runs": [],
        **values,
    }


def test_the_page_gets_the_tables_and_keeps_the_rest() -> None:
    page = tables.PAGE.read_text(encoding="utf-8")
    once = tables.put(page, measured())
    assert tables.put(once, measured()) == once
    assert "Versions: uvicorn 1 and 2, circus 3." in once
    assert once.partition(".. begin recovery")[0] == page.partition(".. begin recovery")[0]
    assert once.partition(".. end recovery")[2] == page.partition(".. end recovery")[2]


def test_the_page_tells_every_commit() -> None:
    assert "at commit abc." in tables.section(measured())
    runs = [{"commit": "a1"}, {"commit": "b2"}, {"commit": "a1"}, {}]
    assert "at commit a1 and b2 and abc." in tables.section(measured(runs=runs))


def test_the_page_is_restructuredtext() -> None:
    core = pytest.importorskip("docutils.core")
    once = tables.put(tables.PAGE.read_text(encoding="utf-8"), measured())
    strict = {"report_level": 2, "halt_level": 2, "warning_stream": False}
    read = core.publish_doctree(once, settings_overrides=strict)  # raises where it is wrong
    assert "web:*" in read.astext()
    assert "bullet_list" not in read.pformat()


def test_a_page_without_a_place_says_so() -> None:
    with pytest.raises(ValueError, match="begin other"):
        tables.put("Title\n", measured(benchmark="other"))


def test_every_benchmark_has_a_place() -> None:
    page = tables.PAGE.read_text(encoding="utf-8")
    for name in ("recovery", "upgrade", "latency", "cost"):
        assert f".. begin {name}\n" in page
        assert f".. end {name}\n" in page


def test_a_report_is_written_whole(tmp_path: Path) -> None:
    report = Report("recovery", {"runs": 1}, runs=[GONE])
    report.tables = recovery_tables.tables(report.runs)
    report.write(tmp_path / "new" / "it.json")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["it.json"]


def test_what_is_kept_of_a_run_before_keeps_its_commit(tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    before = {"runs": [GONE, {**GONE, "commit": "b2"}, {"error": "no"}], "commit": "a1", "versions": {}, "began": "x"}
    path.write_text(json.dumps(before))
    report = Report("recovery", {})
    command.resume(report, argparse.Namespace(resume=True, json=path))
    report.runs.append(dict(GONE))
    report.write(path)
    kept = [run["commit"] for run in json.loads(path.read_text())["runs"]]
    assert kept[:2] == ["a1", "b2"]
    assert len(kept) == 3
    assert kept[2] not in ("a1", "b2")
