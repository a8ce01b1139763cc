"""What is fuzzed: one entry a reader of foreign text, each with its seeds, its words and its properties."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fuzz.target import Target

from .answers import HTTP
from .board import BOARD, HISTORY
from .cells import COMMAND_LINE, MEMORY, REQUEST, STACK
from .events import EVENTS
from .netlink import NETLINK_DUMPS, NETLINK_EXACT
from .proc_texts import PROC
from .rpc import QUICK, RPC_HTTP, RPC_VALUES
from .settings import SETTINGS_FILE, SETTINGS_FLAGS

_ALL = (
    EVENTS,
    REQUEST,
    HTTP,
    NETLINK_EXACT,
    NETLINK_DUMPS,
    PROC,
    SETTINGS_FLAGS,
    SETTINGS_FILE,
    RPC_HTTP,
    RPC_VALUES,
    QUICK,
    BOARD,
    HISTORY,
    MEMORY,
    STACK,
    COMMAND_LINE,
)

TARGETS: Mapping[str, Target] = MappingProxyType({target.name: target for target in _ALL})
