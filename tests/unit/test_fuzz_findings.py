"""What the fuzzing (tests/fuzz) has found in the readers of foreign text, a case each."""

from __future__ import annotations

import contextlib
import socket
import struct
from pathlib import Path
from typing import Any, cast

import pytest

from supervisor_uvicorn.kernel import proc, resources
from supervisor_uvicorn.kernel.errors import KernelError
from supervisor_uvicorn.kernel.sock_diag import SockDiag
from supervisor_uvicorn.settings_file import SettingsError, read_sections
from supervisor_uvicorn.settings_limits import size
from supervisor_uvicorn.supervisord import quick
from supervisor_uvicorn.supervisord.board import Board, Note
from supervisor_uvicorn.supervisord.calls import Supervisord
from supervisor_uvicorn.supervisord.rpc import MOST_WORDS, BadAnswer, Fault, Rpc, RpcError, _Answer
from supervisor_uvicorn.verbs.stored import BadPage
from supervisor_uvicorn.verbs.usage import with_usage


class Netlink:
    def __init__(self, datagrams: list[bytes]) -> None:
        self.datagrams = datagrams

    def send(self, data: bytes) -> int:
        return len(data)

    def recv(self, most: int) -> bytes:
        return self.datagrams.pop(0)

    def close(self) -> None:
        pass


def diag_with(*datagrams: bytes) -> SockDiag:
    diag = SockDiag()
    diag._netlink = cast(socket.socket, Netlink(list(datagrams)))
    return diag


def message(kind: int, sequence: int, payload: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, 0, sequence, 0) + payload


@pytest.mark.parametrize("payload", [b"", b"\0\0", struct.pack("=i", -(2**31))])
def test_a_netlink_error_without_a_number_is_not_understood(payload: bytes) -> None:
    with pytest.raises(KernelError, match="cannot be understood"):
        diag_with(message(2, 1, payload)).tcp_answer(bytes(56))


def test_a_queue_length_of_another_size_is_none() -> None:
    unix = struct.pack("=BBBxI8s", 1, 1, 10, 99, bytes(8))
    unix += struct.pack("=HH8s", 12, 0, b"/run/app") + struct.pack("=HHI", 8, 4, 5)
    dumps = (message(3, 1, b""), message(3, 2, b""), message(20, 3, unix) + message(3, 3, b""))
    (found,) = diag_with(*dumps).listening().values()
    assert (found.address.path, found.queue_length, found.queue_limit) == ("/run/app", 0, 0)


def test_proc_that_no_linux_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    stat = b"7 (x) " + b"x " * 22
    for text in (stat, b"7 (x) " + b"1 " * 22, b"\nvoluntary_ctxt_switches:", b"Max open files", b"1 2 x 4 5 6 7 8"):
        monkeypatch.setattr(proc, "_read", lambda _, text=text: text)
        for read in (proc.born, proc.ticks, proc.usage, proc.descriptor_limit, proc.status, proc.syscall):
            with contextlib.suppress(KernelError):  # and nothing else
                read(7)
    monkeypatch.setattr(proc, "_read", lambda _: stat)
    with pytest.raises(KernelError, match="cannot be understood"):
        proc.process_table()


def test_a_size_of_hundreds_of_digits_is_no_size() -> None:
    with pytest.raises(ValueError, match="is more than any machine has"):
        size().parse("9" * 400)


def test_an_include_of_endless_width_cannot_be_expanded(tmp_path: Path) -> None:
    file = tmp_path / "conf"
    file.write_text("[include]\nfiles = %(here)999999999999999999s\n")
    with pytest.raises(SettingsError, match="cannot be expanded: it is too long"):
        read_sections(str(file))


def test_the_words_of_an_rpc_error_are_fit_for_a_terminal() -> None:
    for error in (RpcError("a\x1b[2J\r\nforged\u2028"), Fault(30, "a\x1b[2J\r\nforged\u2028")):
        assert str(error).startswith("a\\x1b[2J\\r\\nforged\\u2028")
    assert len(str(RpcError("y" * 70_000))) == MOST_WORDS


def test_a_fault_of_infinity_is_no_answer() -> None:
    xml = (
        b"<methodResponse><fault><value><struct><member><name>faultCode</name><value><double>inf</double></value>"
        b"</member><member><name>faultString</name><value>x</value></member></struct></value></fault></methodResponse>"
    )
    answer = _Answer("supervisor.getState")
    answer.feed(xml)
    with pytest.raises(BadAnswer, match="a fault without a number"):
        answer.result()


class Played(Rpc):
    def __init__(self, answer: Any) -> None:
        super().__init__("unix:///played")
        self.answer = answer

    def call(self, *_: Any, **__: Any) -> Any:
        return self.answer


HUGE = 10**400


@pytest.mark.parametrize("number", [HUGE, -HUGE, float("inf"), float("nan")])
def test_numbers_that_no_time_is(number: float) -> None:
    assert Board(Played({"text": "x", "age_s": number, "at": 1.0})).read() == Note()
    assert Board(Played({"text": "x", "age_s": 1.0, "at": number})).read() == Note("x", 1.0, 0.0)
    config = Supervisord(Played([{"name": "web", "stopwaitsecs": number, "startsecs": number}])).configs()["web:web"]
    assert (config.stopwaitsecs, config.startsecs) == (10.0, 1.0)


@pytest.mark.parametrize("word", ["inf", "nan", "1e300"])
def test_numbers_that_no_time_is_in_the_small_reader(word: str) -> None:
    def member(name: str, kind: str, value: str) -> str:
        return f"<member><name>{name}</name><value><{kind}>{value}</{kind}></value></member>"

    xml = "<methodResponse><params><param><value><struct>{}</struct></value></param></params></methodResponse>"
    text = member("text", "string", "x")
    old = text + member("age_s", "double", word) + member("at", "double", "1")
    odd = text + member("age_s", "double", "2") + member("at", "double", word)
    assert quick._note(xml.format(old).encode()) == Note()
    assert quick._note(xml.format(odd).encode()) == Note("x", 2.0, 0.0)


def test_a_shared_socket_has_the_types_it_says() -> None:
    struct = {
        "group": None,
        "url": 7,
        "backlog": "many",
        "refcount": 2,
        "prepared": 1,
        "fd": 4,
        "held_s": "x",
        "more": 1,
    }
    sockets = Board(Played([struct, {}])).sockets()
    assert sockets is not None
    assert [(one.group, one.url, one.backlog, one.refcount, one.fd) for one in sockets] == [
        ("", "", 0, 2, 4),
        ("", "", 0, 0, -1),
    ]
    assert (sockets[0].prepared, sockets[0].held_s) == (False, 0.0)


@pytest.mark.parametrize("code", [[], "x", None, float("inf")])
def test_a_shutdown_refused_with_an_odd_code_is_a_fault(code: object) -> None:
    with pytest.raises(Fault, match="why"):
        Board(Played([0, {"faultCode": code, "faultString": "why"}])).leave(3)


def test_a_name_on_the_board_is_fit_for_a_terminal_in_every_complaint() -> None:
    body = {"programs": [{"name": "web", "workers": [{"name": "web:\x1b[2J" + "y" * 500, "fds": "many"}]}]}
    with pytest.raises(BadPage) as caught:
        with_usage(body, 0.0)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_a_smaps_rollup_of_a_sandbox_is_an_error_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (b"Pss:\n", b"Pss: many kB\n", b"nothing\n"):
        monkeypatch.setattr(proc, "with_rights", lambda pid, read, text=text: text)
        with pytest.raises(KernelError):
            resources.proportional_bytes(1)
