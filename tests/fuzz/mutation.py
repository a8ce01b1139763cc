"""Seeded mutation: the plain engine's inputs. The same seed makes the same inputs, on every machine."""

from __future__ import annotations

import random
from collections.abc import Sequence

_EDGES = (0, 1, 2, 3, 4, 7, 8, 0x0A, 0x0D, 0x1B, 0x20, 0x22, 0x2D, 0x30, 0x3A, 0x7F, 0x80, 0xC3, 0xFE, 0xFF)
_MOST_STEPS = 6


def mutated(chance: random.Random, corpus: Sequence[bytes], tokens: Sequence[bytes], most_bytes: int) -> bytes:
    """An input out of ``corpus``, changed in one to six steps; at most ``most_bytes`` long."""
    data = bytearray(chance.choice(corpus))
    for _ in range(chance.randint(1, _MOST_STEPS)):
        at = chance.randint(0, len(data))
        end = min(len(data), at + chance.randint(1, 16))
        step = chance.randrange(8)
        if step == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif step == 1 and at < len(data):
            data[at] = chance.choice(_EDGES)
        elif step == 2:
            data[at:at] = bytes([chance.randrange(256)]) * chance.choice((1, 1, 1, 2, 40))
        elif step == 3:
            del data[at:end]
        elif step == 4:
            data[at:at] = data[at:end]
        elif step == 5 and tokens:
            data[at : at if chance.random() < 0.5 else end] = chance.choice(tokens)
        elif step == 6:
            other = chance.choice(corpus)
            data[at:] = other[chance.randint(0, len(other)) :]
        elif at < len(data):
            data[at] = chance.randrange(256)
    return bytes(data[:most_bytes])
