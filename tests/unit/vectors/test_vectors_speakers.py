"""Whose names are known: asked of the index once, and never stale for what this process writes."""

from __future__ import annotations

import pytest

from engram_vectors.filters import Wanted, said_by, terms
from engram_vectors.points import Changes, Relabel, head_of
from engram_vectors.speakers import KNOWN_SECONDS, UNKNOWN_SECONDS, Speakers
from support.memories import memory
from support.toy_index import ToyIndex


class Told(ToyIndex):
    """An index that is told who says something, and notes what it was asked."""

    def __init__(self, *known: Wanted) -> None:
        super().__init__()
        self.known = known
        self.asked: list[Wanted] = []

    async def tally(self, wanted: Wanted) -> int:
        self.asked.append(wanted)
        return int(wanted in self.known)


def written(speaker: str, *, tenant: str = "acme") -> Changes:
    labels = {"tenant": tenant, "terms": terms(memory(1, speaker=speaker))}
    return Changes(relabel=[Relabel([head_of(tenant, "1")], labels)])


async def test_a_name_is_asked_for_once_and_again_when_its_time_is_over() -> None:
    now = [0.0]
    index = Told(said_by("acme", "ann"))
    speakers = Speakers(index, clock=lambda: now[0])

    for at in (0.0, UNKNOWN_SECONDS + 1, KNOWN_SECONDS + 1):
        now[0] = at
        assert await speakers.among("acme", ["ann", "paris"]) == {"ann"}

    assert index.asked == [said_by("acme", name) for name in ("ann", "paris", "paris", "ann", "paris")]


@pytest.mark.parametrize("speaker", ["Ann Lee", "ann\u00a0lee", "LEE%"])
async def test_who_speaks_for_the_first_time_is_known_at_once(speaker: str) -> None:
    index = Told()
    speakers = Speakers(index, alone=True)
    name = speaker.casefold().split()[-1]
    assert await speakers.among("acme", [name]) == frozenset()

    speakers.heard(written(speaker))

    assert await speakers.among("acme", [name]) == {name}
    assert await speakers.among("other", [name]) == frozenset()
