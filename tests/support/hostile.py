"""What nobody should write into a file, and how to see that it is refused in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from nabla_eval.errors import NablaError

odd = st.sampled_from(["nan", "inf", "-1", "1e999", "0x10", "", " ", "None", "true", "🙂", "a=b"])
paths = st.sampled_from(["../up", "/etc/passwd", "a/../../b", "\\x00", "con", "~", "a" * 300])
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), odd, paths, st.text(max_size=8),
    st.integers(0, 9),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
# Too deep for a parser's stack, a number too long for an int, no UTF-8, and no end.
torn = st.sampled_from(
    [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5_000, b"\xff\xfe{}", b"", b"{", b"\x00", b"nul"]
)
texts = torn | st.binary(max_size=40) | values.map(lambda value: json.dumps(value).encode())


@st.composite
def spoiled(draw: st.DrawFn, sound: Any) -> Any:
    """A sound value in which one part, drawn at any depth, is another value or is missing."""
    if isinstance(sound, dict) and sound and draw(st.integers(0, 4)):
        name = draw(st.sampled_from(sorted(sound, key=str)))
        if not draw(st.integers(0, 3)):
            return {key: value for key, value in sound.items() if key != name}
        return {**sound, name: draw(spoiled(sound[name]))}
    if isinstance(sound, list) and sound and draw(st.integers(0, 4)):
        place = draw(st.integers(0, len(sound) - 1))
        return [*sound[:place], draw(spoiled(sound[place])), *sound[place + 1 :]]
    return draw(values)


def answered(call: Callable[[], Any]) -> Any:
    """What a call gives, or None where it refused with one of our errors, and with words."""
    try:
        return call()
    except NablaError as error:
        assert len(str(error)) > 20
        return None
