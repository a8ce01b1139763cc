"""Command lines and environments, as uvicorn itself would read them."""

from __future__ import annotations

import pytest

from supervisor_uvicorn.model import Address
from supervisor_uvicorn.uvicorn_command import arguments, options, tree, wanted


@pytest.mark.parametrize(
    "argv",
    [
        "uvicorn app:app",
        "/venv/bin/uvicorn app:app",
        "/venv/bin/python /venv/bin/uvicorn app:app",
        "python3.12 -m uvicorn app:app",
        "python -um uvicorn app:app",
        "python -muvicorn app:app",
        "python -W ignore -X dev -m uvicorn app:app",
        "python -Wignore -Xdev -Im uvicorn app:app",
        "python -u /venv/bin/uvicorn app:app",
        "python --check-hash-based-pycs always -m uvicorn app:app",
        "pypy3 -m uvicorn app:app",
        "supervisor-uvicorn serve app:app",
        "python -m supervisor_uvicorn serve app:app",
        "python -m supervisor_uvicorn.serve app:app",
        "python -um supervisor_uvicorn serve app:app",
    ],
)
def test_uvicorn_is_recognised(argv: str) -> None:
    assert arguments(argv.split()) == ["app:app"]


@pytest.mark.parametrize(
    "argv",
    [
        "",
        "python",
        "python -",
        "python -m",
        "python -c uvicorn",
        "python -uc uvicorn uvicorn",
        "python app.py uvicorn",
        "python -m gunicorn -k uvicorn.workers.UvicornWorker app:app",
        "sh -c uvicorn",
        "uv run uvicorn app:app",
        "/usr/bin/uvicorn-something app:app",
        "supervisor-uvicorn listen",
        "python -m supervisor_uvicorn listen",
        "python -c from multiprocessing.spawn import spawn_main; spawn_main() --multiprocessing-fork",
    ],
)
def test_others_are_not(argv: str) -> None:
    assert arguments(argv.split()) is None


def test_the_command_line_goes_before_the_environment() -> None:
    found = options(["--fd", "0", "--fd=3", "app:app"], {"UVICORN_FD": "7", "UVICORN_LIMIT_CONCURRENCY": "5"})
    assert (found.fd, found.limit_concurrency, found.environ_read) == (3, 5, True)
    assert options(["app:app"], {"UVICORN_FD": "", "UVICORN_UDS": "/run/a"}).fd is None
    assert options(["app:app"], {"UVICORN_UDS": "/run/a"}).uds == "/run/a"
    assert options(["app:app"], None).environ_read is False


def test_options_that_change_how_a_worker_is_pinned() -> None:
    assert options(["--ssl-keyfile", "k", "app:app"], {}).tls
    assert options(["app:app"], {"UVICORN_SSL_CERTFILE": "c"}).tls
    assert options(["--ssl-cert-reqs=2", "app:app"], {}).client_certificate
    assert not options(["--ssl-cert-reqs=1", "app:app"], {}).client_certificate
    assert options(["--h11-max-incomplete-event-size", "9000"], {}).max_head_bytes == 9000
    assert options(["--limit-concurrency", "many"], {}).limit_concurrency is None
    assert options(["--limit-concurrency"], {}).limit_concurrency is None


@pytest.mark.parametrize(
    ("args", "environ", "said"),
    [
        ("--workers 2 a:b", {}, "--workers 2"),
        ("--workers=2 a:b", {"WEB_CONCURRENCY": "1"}, "--workers 2"),
        ("a:b", {"UVICORN_WORKERS": "4"}, "--workers 4"),
        ("a:b", {"WEB_CONCURRENCY": "3"}, "WEB_CONCURRENCY 3"),
        ("--reload a:b", {}, "--reload"),
        ("a:b", {"UVICORN_RELOAD": "True"}, "--reload"),
        ("--workers 1 a:b", {"WEB_CONCURRENCY": "3"}, ""),
        ("a:b", {"WEB_CONCURRENCY": "1", "UVICORN_RELOAD": "0"}, ""),
        ("a:b", {"WEB_CONCURRENCY": "all"}, ""),
        ("--workers 1 a:b", None, ""),
    ],
)
def test_trees_are_told_by_their_options(args: str, environ: dict[str, str] | None, said: str) -> None:
    why = tree(args.split(), environ)
    assert (said in why) if said else why == ""


def test_uvicorns_own_socket_is_told_from_the_applications() -> None:
    def at(port: int) -> Address:
        return Address("tcp", "127.0.0.1", port)

    unix = Address("unix", path="app.sock")
    assert wanted(["a:b"], {}).fits(at(8000))
    assert not wanted(["a:b"], {}).fits(at(9100))
    assert not wanted(["a:b"], {}).fits(unix)
    assert wanted(["a:b"], {"UVICORN_PORT": "9000"}).fits(Address("tcp6", "::1", 9000))
    assert wanted(["--port", "0", "a:b"], {}).fits(at(51234))
    assert wanted(["--uds", "app.sock", "--port", "9000", "a:b"], {}).fits(unix)
    assert not wanted(["--uds", "app.sock", "--port", "9000", "a:b"], {}).fits(at(9000))
    assert wanted(["a:b"], None).fits(at(9100)), "its environment was refused to us, so it may be any"
    assert not wanted(["--port", "9000", "a:b"], None).fits(at(9100))
