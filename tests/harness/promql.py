"""What a PromQL expression names: read loosely, which is enough for ours. promtool reads it strictly."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from harness import interpreter

PROMETHEUS = interpreter.ROOT / "conf" / "prometheus"
OF_THE_TARGET = {"instance", "job"}  # what Prometheus puts to every series itself


def rules() -> list[dict[str, Any]]:
    """The alerts of conf/prometheus."""
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard_expressions() -> Iterator[tuple[str, str]]:
    """(where, the expression) of each panel and each variable, as Grafana would send it with everything chosen."""
    board = json.loads((PROMETHEUS / "grafana-dashboard.json").read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], _chosen(target["expr"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert found, variable
            yield f"${variable['name']}", f"sum by ({found[2]}) ({_chosen(found[1])})"


def _chosen(expression: str) -> str:
    return re.sub(r"\$(instance|program)\b", ".*", expression.replace("$__rate_interval", "1m"))


def dashboard_legends() -> Iterator[tuple[str, str]]:
    """(the expression, the label that its legend names)."""
    board = json.loads((PROMETHEUS / "grafana-dashboard.json").read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            for label in re.findall(r"{{\s*(\w+)\s*}}", target["legendFormat"]):
                yield target["expr"], label


def named(expression: str) -> dict[str, set[str]]:
    """Metric -> the labels that it is selected by. Labels of ``by``, ``on`` and the like belong to all of its metrics.

    >>> named('sum by (le) (rate(a_b{c="d"}[5m])) / on (job) up')["a_b"] == {"c", "le", "job"}
    True
    """
    bare = re.sub(r'"[^"]*"', '""', expression)
    grouping = {
        label
        for labels in re.findall(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)", bare)
        for label in re.findall(r"\w+", labels)
    }
    found: dict[str, set[str]] = {}
    for name, selectors in re.findall(r"\b(supervisor_uvicorn_\w+|up|[a-z]+(?:_[a-z]+)+(?=\{))(?:\{([^}]*)\})?", bare):
        its = found.setdefault(name, set(grouping))
        its.update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selectors))
    return found


def matchers(expression: str) -> Iterator[tuple[str, str, str]]:
    """(metric, label, value) of each matcher by plain values: ``=``, ``!=``, and alternatives of ``=~`` and ``!~``."""
    for name, selectors in re.findall(r"(supervisor_uvicorn_\w+)\{([^}]*)\}", expression):
        for label, value in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', selectors):
            for one in value.split("|"):
                yield name, label, one
