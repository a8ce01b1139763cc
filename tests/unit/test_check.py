"""What ``check`` shows, and which members a NAME means."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from supervisor_uvicorn.check import _CannotLook, _chosen, report
from supervisor_uvicorn.model import Address, Answer, HttpOutcome, Member, State, Verdict, WorkerId
from supervisor_uvicorn.report.table import well
from supervisor_uvicorn.verdict import Past

AT = Address("tcp", "127.0.0.1", 8000)
WEB0 = Member("web:web-0", State.RUNNING, 4711, 9, socket=AT, socket_inode=5)
WEB1 = Member("web:web-1", State.RUNNING, 4712, 9, socket=AT, socket_inode=5)
API = Member("api:api", State.STOPPED)
TREE = Member("old:old", State.RUNNING, 4713, 9, not_watched="it runs with --workers 2")


def past(member: Member, verdict: Verdict, reason: str = "") -> Past:
    assert member.worker is not None
    return Past(member.name, member.worker, 0.0, state=member.state, verdict=verdict, reason=reason, lag_s=0.00002)


def test_the_json_is_what_the_design_promises() -> None:
    http = HttpOutcome(Answer.RIGHT, "", 200, 0.0041234567)
    pasts = {
        "web:web-0": replace(past(WEB0, Verdict.HEALTHY), http=http),
        "web:web-1": past(WEB1, Verdict.SILENT, "its event loop has not turned for 1.0 s"),
    }
    page = json.loads(json.dumps(report([WEB0, WEB1], pasts)))
    assert page == {
        "version": 1,
        "listener": None,
        "answers": [],
        "age_s": 0.0,
        "programs": [
            {
                "name": "web",
                "socket": "tcp://127.0.0.1:8000",
                "state": None,
                "detail": None,
                "roll": None,
                "workers": [
                    {
                        "name": "web:web-0",
                        "pid": 4711,
                        "state": "RUNNING",
                        "watched": True,
                        "verdict": "healthy",
                        "reason": "",
                        "lag_s": 0.00002,
                        "http": {"status": 200, "seconds": 0.004123},
                        "since_s": None,
                        "restarts": None,
                        "held": None,
                        **dict.fromkeys(("over", "rss_bytes", "age_s", "cpu_s", "fds", "connections", "helpers")),
                    },
                    {
                        "name": "web:web-1",
                        "pid": 4712,
                        "state": "RUNNING",
                        "watched": True,
                        "verdict": "silent",
                        "reason": "its event loop has not turned for 1.0 s",
                        "lag_s": 0.00002,
                        "http": None,
                        "since_s": None,
                        "restarts": None,
                        "held": None,
                        **dict.fromkeys(("over", "rss_bytes", "age_s", "cpu_s", "fds", "connections", "helpers")),
                    },
                ],
            }
        ],
    }
    assert not well(page)


def test_one_wrong_answer_is_enough_for_a_single_look() -> None:
    wrong = HttpOutcome(Answer.WRONG, "status 500", 500)
    page = report([WEB0], {"web:web-0": replace(past(WEB0, Verdict.HEALTHY), http=wrong)})
    worker = page["programs"][0]["workers"][0]
    assert (worker["verdict"], worker["reason"]) == ("failing", "status 500")
    busy = HttpOutcome(Answer.BUSY, "busy", 503)
    assert well(report([WEB0], {"web:web-0": replace(past(WEB0, Verdict.HEALTHY), http=busy)}))


def test_a_tree_says_why_it_is_not_watched() -> None:
    page = report([TREE], {})
    worker = page["programs"][0]["workers"][0]
    assert (worker["watched"], worker["verdict"], worker["reason"]) == (False, "unknown", "it runs with --workers 2")


@pytest.mark.parametrize(
    ("names", "meant"),
    [
        ([], ["web:web-0", "web:web-1", "api:api"]),
        (["all"], ["web:web-0", "web:web-1", "api:api"]),
        (["web"], ["web:web-0", "web:web-1"]),
        (["web:*"], ["web:web-0", "web:web-1"]),
        (["web:web-1", "web:web-1"], ["web:web-1"]),
        (["api", "web:web-0"], ["api:api", "web:web-0"]),
        (["nobody", "all"], ["web:web-0", "web:web-1", "api:api"]),
    ],
)
def test_names_mean_what_they_mean_in_supervisorctl(names: list[str], meant: list[str]) -> None:
    assert [member.name for member in _chosen([WEB0, WEB1, API], names)] == meant


@pytest.mark.parametrize("name", ["nobody", "web:web-7", "we", "web-0", "*"])
def test_a_name_of_nobody_says_who_is_there(name: str) -> None:
    with pytest.raises(_CannotLook, match=r"no such uvicorn worker or program \(programs here: api, web\)"):
        _chosen([WEB0, WEB1, API], [name])


def test_identity_is_the_members_own() -> None:
    assert WEB0.worker == WorkerId("web:web-0", 4711, 9)
