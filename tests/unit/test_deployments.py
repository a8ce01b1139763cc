"""What in ``conf/`` no test can run (an image, compose, Kubernetes, systemd): its shape, and that its figures agree."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness.configurations import CONF

from supervisor_uvicorn.cli import parser
from supervisor_uvicorn.settings import Settings

CONTAINER, KUBERNETES, SYSTEMD = CONF / "container", CONF / "kubernetes", CONF / "systemd"
START_TIMEOUT_S = Settings().start_timeout_s
LOOK_S = 3.0  # of a healthcheck without a board
DOCKER_GRACE_S = 10.0


def conf(directory: Path) -> ConfigParser:
    found = ConfigParser(interpolation=None, strict=True, inline_comment_prefixes=(";",))
    found.read_string((directory / "supervisord.conf").read_text())
    return found


def stop_s(directory: Path) -> float:
    """The longest that supervisord takes to end: one group after the other (supervisord.py, ordered_stop_groups)."""
    sections = conf(directory)
    return sum(
        float(sections[name].get("stopwaitsecs", "10"))
        for name in sections.sections()
        if name.startswith(("program:", "fcgi-program:"))
    )


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"s": 1, "m": 60}[unit]


def is_a_healthcheck(command: list[str], server: str) -> str:
    """The argument of --min-healthy; the command is taken by our own parser, and reads no configuration."""
    assert command[:2] == ["supervisor-uvicorn", "healthcheck"]
    args = parser().parse_args(command[1:])
    assert args.serverurl == server
    assert args.configuration is None
    return command[command.index("--min-healthy") + 1]


@pytest.mark.parametrize("directory", [CONTAINER, SYSTEMD], ids=lambda path: path.name)
def test_uvicorn_ends_by_itself_before_supervisord_kills_it(directory: Path) -> None:
    web = conf(directory)["fcgi-program:web"]
    graceful_s = float(web["command"].split("--timeout-graceful-shutdown ")[1].split()[0])
    assert graceful_s < float(web["stopwaitsecs"])
    assert web["user"] != "root"
    assert conf(directory)["unix_http_server"]["chmod"] == "0700"
    assert conf(directory)["unix_http_server"]["file"] == "/run/supervisor.sock"


def test_an_application_that_fails_slowly_still_becomes_fatal() -> None:
    """supervisord counts only what fails within startsecs; its default is 1 (docs/containers.rst, --exit-on)."""
    assert float(conf(CONTAINER)["fcgi-program:web"]["startsecs"]) >= 5


# -- Dockerfile


def instructions() -> list[tuple[str, str]]:
    """(INSTRUCTION, rest), comments left out and continued lines joined."""
    lines = [line for line in (CONTAINER / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in found]


def only(word: str) -> str:
    (found,) = [rest for instruction, rest in instructions() if instruction == word]
    return found


_KNOWN = {"FROM", "RUN", "COPY", "ENV", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "CMD"}


def test_dockerfile_instructions() -> None:
    words = [word for word, _ in instructions()]
    assert set(words) <= _KNOWN  # Dockerfile reference; a typing error is an unknown instruction
    assert words[0] == "FROM"
    stages = [rest.split() for word, rest in instructions() if word == "FROM"]
    assert all(stage[0].endswith("-slim") for stage in stages)
    assert [stage[2] for stage in stages[:-1]] == ["build"]
    assert all("--no-cache-dir" in rest for word, rest in instructions() if word == "RUN" and "pip install" in rest)


def test_dockerfile_copies_what_is_there_and_what_the_configuration_names() -> None:
    copied = [rest.split() for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    assert all((CONTAINER / source).is_file() for *sources, _ in copied for source in sources)
    targets = dict(copied)
    assert targets["supervisord.conf"] == "/etc/supervisord.conf"
    web = conf(CONTAINER)["fcgi-program:web"]
    module = web["command"].split()[-1].partition(":")[0]
    assert targets[f"{module}.py"].rstrip("/") == web["directory"]
    assert only("EXPOSE") == web["socket"].rpartition(":")[2]


def test_dockerfile_starts_supervisord_as_pid_1_in_the_foreground() -> None:
    assert yaml.safe_load(only("CMD")) == ["supervisord", "-n", "-c", "/etc/supervisord.conf"]
    assert only("STOPSIGNAL") == "SIGTERM"
    assert conf(CONTAINER)["supervisord"]["nodaemon"] == "true"


def test_dockerfile_healthcheck() -> None:
    options, _, command = only("HEALTHCHECK").partition("CMD ")
    given = dict(re.findall(r"--([a-z-]+)=(\S+)", options))
    assert given.keys() == {"interval", "timeout", "start-period", "retries"}
    assert seconds(given["timeout"]) > LOOK_S
    assert seconds(given["start-period"]) >= START_TIMEOUT_S
    server = "unix://" + conf(CONTAINER)["unix_http_server"]["file"]
    assert is_a_healthcheck(yaml.safe_load(command), server) == "50%"


# -- compose


def test_compose() -> None:
    found = yaml.safe_load((CONTAINER / "compose.yaml").read_text())
    assert found.keys() == {"services"}
    (web,) = found["services"].values()
    known = {"build", "ports", "restart", "stop_grace_period", "read_only", "tmpfs", "cap_drop", "cap_add"}
    assert web.keys() == known | {"security_opt", "ulimits"}  # Compose specification
    assert web["build"] == "."
    assert web["ports"] == [f"8000:{only('EXPOSE')}"]
    assert web["restart"] == "on-failure"
    assert seconds(web["stop_grace_period"]) > stop_s(CONTAINER)
    assert web["read_only"] is True
    assert web["cap_drop"] == ["ALL"]
    assert web["cap_add"] == ["KILL", "SETGID", "SETUID"]  # test_container.py runs with these
    assert web["ulimits"] == {"core": 0, "nofile": 65536}
    for path in (conf(CONTAINER)["unix_http_server"]["file"], conf(CONTAINER)["supervisord"]["pidfile"]):
        assert any(path.startswith(f"{mount}/") for mount in web["tmpfs"])


def test_everything_ends_within_dockers_own_grace() -> None:
    assert stop_s(CONTAINER) + 2 < DOCKER_GRACE_S


# -- Kubernetes

# The fields that we use, with their types (Kubernetes API 1.32, apps/v1, core/v1 and policy/v1). A misspelt field is
# silently dropped by an older server, and refused by a newer one; here it fails.
PROBE = {
    "exec": {"command": [str]},
    "periodSeconds": int,
    "timeoutSeconds": int,
    "failureThreshold": int,
    "successThreshold": int,
}
LABELS = {"app.kubernetes.io/name": str}
SELECTOR = {"matchLabels": LABELS}
CONTAINER_FIELDS = {
    "name": str,
    "image": str,
    "ports": [{"name": str, "containerPort": int}],
    "lifecycle": {"preStop": {"exec": {"command": [str]}}},
    "startupProbe": PROBE,
    "readinessProbe": PROBE,
    "livenessProbe": PROBE,
    "resources": {"requests": {"cpu": str, "memory": str}, "limits": {"memory": str}},
    "securityContext": {
        "runAsUser": int,
        "allowPrivilegeEscalation": bool,
        "readOnlyRootFilesystem": bool,
        "capabilities": {"drop": [str], "add": [str]},
    },
    "volumeMounts": [{"name": str, "mountPath": str}],
}
POD = {
    "terminationGracePeriodSeconds": int,
    "automountServiceAccountToken": bool,
    "securityContext": {"seccompProfile": {"type": str}},
    "topologySpreadConstraints": [
        {"maxSkew": int, "topologyKey": str, "whenUnsatisfiable": str, "labelSelector": SELECTOR}
    ],
    "containers": [CONTAINER_FIELDS],
    "volumes": [{"name": str, "emptyDir": {"medium": str, "sizeLimit": str}}],
}
META = {"name": str, "labels": LABELS}
SCHEMAS: dict[str, tuple[str, dict[str, Any]]] = {
    "Deployment": (
        "apps/v1",
        {
            "replicas": int,
            "selector": SELECTOR,
            "strategy": {"type": str, "rollingUpdate": {"maxSurge": int, "maxUnavailable": int}},
            "minReadySeconds": int,
            "progressDeadlineSeconds": int,
            "template": {"metadata": {"labels": LABELS}, "spec": POD},
        },
    ),
    "Service": ("v1", {"selector": LABELS, "ports": [{"name": str, "port": int, "targetPort": str}]}),
    "PodDisruptionBudget": ("policy/v1", {"maxUnavailable": int, "selector": SELECTOR}),
}


def wrong(value: Any, schema: Any, where: str) -> Iterator[str]:
    """What in ``value`` is not as the schema has it."""
    if isinstance(schema, type):
        if type(value) is not schema:
            yield f"{where} is {value!r}, no {schema.__name__}"
    elif isinstance(schema, list):
        if not isinstance(value, list) or not value:
            yield f"{where} is no list with something in it"
        else:
            for number, one in enumerate(value):
                yield from wrong(one, schema[0], f"{where}[{number}]")
    elif not isinstance(value, Mapping):
        yield f"{where} is no mapping"
    else:
        for key, one in value.items():
            if key not in schema:
                yield f"{where} has no field {key}"
            else:
                yield from wrong(one, schema[key], f"{where}.{key}")


def documents() -> dict[str, dict[str, Any]]:
    found = list(yaml.safe_load_all((KUBERNETES / "deployment.yaml").read_text()))
    return {document["kind"]: document for document in found}


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = documents()["Deployment"]["spec"]["template"]["spec"]
    return spec


def pod_container() -> dict[str, Any]:
    (found,) = pod()["containers"]
    return dict(found)


def test_kubernetes_fields() -> None:
    assert documents().keys() == SCHEMAS.keys()
    for kind, (version, spec) in SCHEMAS.items():
        schema = {"apiVersion": str, "kind": str, "metadata": META, "spec": spec}
        assert list(wrong(documents()[kind], schema, kind)) == []
        assert documents()[kind]["apiVersion"] == version


def test_the_schema_finds_a_misspelt_field() -> None:
    """The test above can fail."""
    broken = {**documents()["Service"], "sepc": {}, "metadata": {"name": 1}}
    schema = {"apiVersion": str, "kind": str, "metadata": META, "spec": SCHEMAS["Service"][1]}
    assert list(wrong(broken, schema, "Service")) == ["Service.metadata.name is 1, no str", "Service has no field sepc"]


def test_kubernetes_everybody_means_the_same_pods_and_port() -> None:
    deployment = documents()["Deployment"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert documents()["Service"]["spec"]["selector"] == labels
    assert documents()["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    (port,) = pod_container()["ports"]
    assert documents()["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    assert str(port["containerPort"]) == only("EXPOSE")


def test_kubernetes_a_budget_that_lets_a_node_be_drained() -> None:
    assert documents()["PodDisruptionBudget"]["spec"]["maxUnavailable"] >= 1
    assert documents()["Deployment"]["spec"]["replicas"] >= 2
    rolling = documents()["Deployment"]["spec"]["strategy"]["rollingUpdate"]
    assert rolling["maxSurge"] + rolling["maxUnavailable"] >= 1
    assert rolling["maxUnavailable"] == 0


def test_kubernetes_probes_do_not_fight_the_listener() -> None:
    found = pod_container()
    server = "unix://" + conf(CONTAINER)["unix_http_server"]["file"]
    start, ready, live = found["startupProbe"], found["readinessProbe"], found["livenessProbe"]
    assert all(probe["timeoutSeconds"] > LOOK_S for probe in (start, ready, live))
    assert is_a_healthcheck(start["exec"]["command"], server) == "1"
    assert is_a_healthcheck(ready["exec"]["command"], server) == "50%"
    assert start["periodSeconds"] * start["failureThreshold"] > START_TIMEOUT_S
    assert (
        start["periodSeconds"] * start["failureThreshold"]
        < documents()["Deployment"]["spec"]["progressDeadlineSeconds"]
    )
    # liveness: supervisord and the listener, and never the workers' health
    listener = next(name for name in conf(CONTAINER).sections() if name.startswith("eventlistener:")).partition(":")[2]
    assert live["exec"]["command"] == ["supervisorctl", "-c", "/etc/supervisord.conf", "status", listener]
    assert live["periodSeconds"] * live["failureThreshold"] >= 60


def test_kubernetes_the_grace_period_covers_everything() -> None:
    command = pod_container()["lifecycle"]["preStop"]["exec"]["command"]
    assert command[0] == "sleep"
    assert pod()["terminationGracePeriodSeconds"] >= float(command[1]) + stop_s(CONTAINER) + 10


def test_kubernetes_rights_and_volumes() -> None:
    found = pod_container()
    context = found["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["KILL", "SETGID", "SETUID"]}
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert {mount["name"] for mount in found["volumeMounts"]} == {volume["name"] for volume in pod()["volumes"]}
    assert {mount["mountPath"] for mount in found["volumeMounts"]} == {"/run", "/tmp"}


# -- systemd


def unit() -> ConfigParser:
    found = ConfigParser(interpolation=None, strict=True, comment_prefixes=("#",))
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read_string((SYSTEMD / "web.service").read_text())
    return found


def test_systemd_unit() -> None:
    service = unit()["Service"]
    assert unit().sections() == ["Unit", "Service", "Install"]
    assert shlex.split(service["ExecStart"])[1:] == ["-n", "-c", "/opt/web/supervisord.conf"]
    reload = shlex.split(service["ExecReload"])
    args = parser().parse_args(reload[1:])
    assert (args.verb, args.names) == ("restart", ["all"])
    assert args.serverurl == "unix://" + conf(SYSTEMD)["unix_http_server"]["file"]
    assert service["KillMode"] == "mixed"
    assert float(service["TimeoutStopSec"]) >= stop_s(SYSTEMD) + 10
    assert service["OOMPolicy"] == "continue"
    assert int(service["LimitNOFILE"]) >= int(conf(SYSTEMD)["supervisord"].get("minfds", "1024"))


def test_systemd_never_opens_the_journals_socket() -> None:
    """open(2) of a socket is ENXIO, and /dev/stdout is one there."""
    assert "=/dev/std" not in (SYSTEMD / "supervisord.conf").read_text()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_analyze_finds_nothing_but_what_is_not_installed(tmp_path: Path) -> None:
    path = tmp_path / "web.service"
    installed = (SYSTEMD / "web.service").read_text().replace("/opt/web/venv/bin/", "/usr/bin/env ")
    path.write_text(installed)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=60
    )
    assert [line for line in done.stderr.splitlines() if "web.service" in line] == []
    path.write_text(installed.replace("OOMPolicy", "OomPolicy"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=60
    )
    assert "OomPolicy" in done.stderr
