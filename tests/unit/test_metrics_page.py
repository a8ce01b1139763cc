"""The catalogue against the code that it speaks of; the page, the alerts and the dashboard against the catalogue."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import promql
from harness.interpreter import ROOT
from played_metrics import member, scraped, usage, view
from test_docs import known_brakes

from supervisor_uvicorn.model import WorkerId
from supervisor_uvicorn.report.metrics import catalogue
from supervisor_uvicorn.report.metrics.catalogue import CATALOGUE, Metric
from supervisor_uvicorn.report.metrics.figures import Figures
from supervisor_uvicorn.settings import Settings

SOURCES = sorted((ROOT / "supervisor_uvicorn").rglob("*.py"))


def generate_metrics() -> Callable[[], str]:
    spec = importlib.util.spec_from_file_location("generate_metrics", ROOT / "docs" / "generate_metrics.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.page
    assert callable(found)
    return found  # type: ignore[no-any-return]


# -- the catalogue -----------------------------------------------------------------------------------------------------


def test_every_brake_is_known() -> None:
    told = {"suspended" if brake == "budget" else brake for brake in known_brakes()}
    assert set(catalogue.BRAKES) == {*told, catalogue.OTHER}


def test_every_reason_of_an_error_is_known() -> None:
    named = {
        reason
        for path in SOURCES
        for reason in re.findall(r'\bError\((?:[^()]|\([^()]*\))*?reason="([^"]+)"', path.read_text(encoding="utf-8"))
    }
    assert len(named) >= 10
    assert named <= set(catalogue.ERRORS)


def test_no_set_of_values_has_one_twice() -> None:
    for metric in CATALOGUE:
        assert len(set(metric.values)) == len(metric.values), metric.name
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE)


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.short)
def test_names_are_as_prometheus_wants_them(metric: Metric) -> None:
    assert re.fullmatch(r"supervisor_uvicorn_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert not re.search(r"_(ms|milliseconds|kb|megabytes|percent|count|sum|bucket)(_|$)", metric.name)
    assert metric.help.endswith(".")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert bool(metric.buckets) == (metric.kind == "histogram")


def test_the_page_is_what_the_generator_writes() -> None:
    page = (ROOT / "docs" / "metrics.rst").read_text(encoding="utf-8")
    assert page == generate_metrics()(), "run: python3 docs/generate_metrics.py"


# -- alerts and dashboard ----------------------------------------------------------------------------------------------


def exposed() -> dict[str, set[str]]:
    """Name -> labels of every series of a scrape in which everything is known."""
    members = [member("web:web-0", 100), member("api:api", 101)]
    known = usage(rss_bytes=1, cpu_s=1, fds=1, fds_limit=1, connections=1)
    figures = Figures()
    usages: dict[WorkerId, object] = {one.worker: known for one in members if one.worker is not None}
    queues = {"web": ((0, 128),), "api": ((0, 128),)}
    figures.show(view(members, usages=usages, queues=queues, settings=Settings(path="/health")))  # type: ignore[arg-type]
    found: dict[str, set[str]] = {}
    for sample in scraped(figures):
        found.setdefault(sample.name, set()).update(sample.labels)
    return found


def wrong(expression: str, there: dict[str, set[str]]) -> list[str]:
    """What an expression names that no scrape has."""
    found = promql.named(expression)
    assert found, f"nothing is named by {expression}"
    said = []
    every = {label for name in found for label in there.get(name, ())} | promql.OF_THE_TARGET
    for name, labels in found.items():
        if name != "up" and name not in there:
            said.append(f"no metric {name}")
        said += [f"no label {label} of {name}" for label in sorted(labels - every)]
    for name, label, value in promql.matchers(expression):
        known = {metric.name: metric for metric in CATALOGUE}.get(name)
        if known is not None and known.values and label == known.labels[-1] and value not in known.values:
            said.append(f"{label} of {name} is never {value}")
    return said


@pytest.mark.parametrize("rule", promql.rules(), ids=lambda rule: rule["alert"])
def test_an_alert_names_what_is_there(rule: dict[str, object]) -> None:
    assert wrong(str(rule["expr"]), exposed()) == []


@pytest.mark.parametrize("rule", promql.rules(), ids=lambda rule: rule["alert"])
def test_an_alert_speaks_of_labels_that_it_has(rule: dict[str, object]) -> None:
    there = exposed()
    words = json.dumps(rule["annotations"])
    every = {label for name in promql.named(str(rule["expr"])) for label in there.get(name, ())} | promql.OF_THE_TARGET
    named = set(re.findall(r"\$labels\.(\w+)", words))
    assert named
    assert named <= every


def test_the_dashboard_names_what_is_there() -> None:
    there = exposed()
    found = [f"{title}: {one}" for title, expr in promql.dashboard_expressions() for one in wrong(expr, there)]
    assert found == []


def test_the_dashboard_s_legends_name_labels_that_are_left() -> None:
    there = exposed()
    for expression, label in promql.dashboard_legends():
        kept = re.search(r"\bby \(([^)]*)\)", expression)
        labels = {label for name in promql.named(expression) for label in there.get(name, ())} | promql.OF_THE_TARGET
        assert label in (kept[1] if kept else labels), (expression, label)


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for _, expression in promql.dashboard_expressions() for name in promql.named(expression)}
    missing = [metric.name for metric in CATALOGUE if not shown.intersection(metric.series)]
    assert missing == []


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("supervisor_uvicorn_worker_upp == 0", "no metric"),
        ("supervisor_uvicorn_worker_up{pid='1'} == 0", "no label pid"),
        ("sum by (verdikt) (supervisor_uvicorn_worker_verdict)", "no label verdikt"),
        ('supervisor_uvicorn_worker_verdict{verdict="silnt"}', "never silnt"),
        ('supervisor_uvicorn_program_held{brake!~"paused|dryrun"} > 0', "never dryrun"),
    ],
)
def test_each_check_finds_a_mistake(expression: str, said: str) -> None:
    assert [one for one in wrong(expression, exposed()) if said in one]


def test_every_command_that_an_alert_names_can_be_typed() -> None:
    from test_docs import our_verbs

    words = " ".join(json.dumps(rule["annotations"]) for rule in promql.rules())
    verbs = set(re.findall(r"supervisor-uvicorn (\w+) \{\{", words))
    assert len(verbs) >= 4
    assert verbs <= set(our_verbs())


def test_nobody_has_to_import_prometheus_for_the_page() -> None:
    assert "prometheus_client" not in inspect.getsource(catalogue)
    assert "prometheus_client" not in Path(ROOT / "docs" / "generate_metrics.py").read_text(encoding="utf-8")
