"""Keyed randomness: every draw is a pure function of what it is for (DESIGN 5).

A `Key` names a stream: seed / task / document / repeat / purpose / branch. `Key.uniforms` turns it
into numbers by counting, so the number at a position depends on nothing but the key and that
position: not on the batch, the order of evaluation, the rank, or the numbers drawn before.
There is no global generator anywhere in nabla_eval.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True)
class Key:
    """Name of a random stream; `key / part` names a sub-stream.

    Parts are strings or integers and are hashed with their type and length, so that
    `key / 1`, `key / "1"` and `key / "1" / ""` are three different streams.
    """

    digest: bytes

    @classmethod
    def root(cls, seed: int) -> Key:
        """Key of a whole run."""
        return cls(b"") / "nabla_eval" / int(seed)

    def __truediv__(self, part: str | int) -> Key:
        kind = b"i" if isinstance(part, int) else b"s"
        return Key(_digest(self.digest, kind, str(part)))

    def uniforms(self, start: int, count: int) -> np.ndarray:
        """Uniform numbers in (0, 1) at positions start..start+count-1; float64 `[count]`."""
        return uniforms([self], start, count)[0]

    def uniform(self, position: int = 0) -> float:
        """The one number at a position."""
        return float(self.uniforms(position, 1)[0])

    def __repr__(self) -> str:
        return f"Key({self.digest.hex()[:12]})"


@lru_cache(maxsize=2**14)  # many streams of a problem begin alike
def _digest(parent: bytes, kind: bytes, part: str) -> bytes:
    body = part.encode()
    label = kind + len(body).to_bytes(8, "little") + body
    return hashlib.blake2b(parent + label, digest_size=16).digest()


def uniforms(keys: Sequence[Key], start: int | Sequence[int], count: int) -> np.ndarray:
    """Uniform numbers of several streams at positions start..start+count-1 (one start a stream).

    Shapes: `[len(keys), count]`, float64, strictly between 0 and 1 (odd multiples of 2**-53), so
    that both log(u) and log(1-u) are finite.

    A counter-based generator: two rounds of the SplitMix64 finaliser (Steele, Lea and Flood 2014)
    over position and the key's 128-bit hash.
    """
    words = np.frombuffer(b"".join(key.digest for key in keys), dtype="<u8").reshape(-1, 2)
    starts = np.broadcast_to(np.asarray(start, dtype=np.uint64), (len(keys),))
    counter = starts[:, None] + np.arange(1, 1 + count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        state = _mix(words[:, :1] + counter * _GOLDEN)
        state = _mix(state ^ words[:, 1:])
    return ((state >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _mix(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))
