from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from engram_contracts.errors import Internal
from engram_reasoner.sse import LONGEST_LINE, DataLines


@given(
    payloads=some.lists(some.text(some.characters(exclude_categories=["Cc", "Cs", "Z"]), min_size=1)),
    cuts=some.lists(some.integers(1, 9), min_size=1),
    end=some.sampled_from(["\n", "\r\n"]),
)
def test_payloads_survive_wherever_the_bytes_are_cut(payloads: list[str], cuts: list[int], end: str) -> None:
    stream = "".join(f": comment{end}data: {payload}{end}{end}" for payload in payloads).encode()
    lines, found, at, turn = DataLines(), [], 0, 0

    while at < len(stream):
        size = cuts[turn % len(cuts)]
        found += lines.feed(stream[at : at + size])
        at, turn = at + size, turn + 1

    assert found + lines.close() == payloads


@given(some.lists(some.binary()))
def test_rubbish_is_never_an_error(pieces: list[bytes]) -> None:
    lines = DataLines()

    found = [payload for piece in pieces for payload in lines.feed(piece)]

    assert all(isinstance(payload, str) for payload in [*found, *lines.close()])


def test_a_last_line_without_an_end_counts() -> None:
    lines = DataLines()

    assert lines.feed(b"data:one\ndata: two") == ["one"]
    assert lines.close() == ["two"]


def test_a_line_without_an_end_is_not_collected_for_ever() -> None:
    with pytest.raises(Internal):
        DataLines().feed(b"x" * (LONGEST_LINE + 1))
