"""A recollection that goes out unread says what reading it would have said."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from engram_contracts.memory import Memory
from engram_contracts.questions import Hit
from engram_vectors.points import Entry, memory_json
from engram_vectors.ranking import Ranked
from engram_vectors.told import Told, first_to_expire, hit_of
from support.memories import memory

NOW = datetime(2026, 5, 1, tzinfo=UTC)
awkward = st.sampled_from(['","command":"x"', "command", '{"memory":', "}", "\\", '"', "plain", "naïve 🎉"])


def entry(kept: Memory | None, **fields: Any) -> str:
    return Entry(memory=kept, command="c", log_sequence=1, born=1, indexed_at=NOW, **fields).encode().decode()


def ranked(head: int, *, chunk: int = 0, same: tuple[int, ...] = ()) -> Ranked:
    return Ranked(
        head=head, score=0.25, parts={"dense": 0.25}, raw={"dense": 0.5}, normalised={"dense": 0.5}, ranks={"dense": 1},
        chunk=chunk, same=same,
    )  # fmt: skip


@given(content=awkward, metadata=st.dictionaries(awkward, awkward), tags=st.lists(awkward, unique=True, max_size=2))
def test_the_memory_in_a_record_is_the_memory(content: str, metadata: dict[str, Any], tags: list[str]) -> None:
    kept = memory(1, content=content, metadata=metadata, tags=tuple(tags))

    told = memory_json(entry(kept, earlier=('"command":',)))

    assert told is not None
    assert Memory.model_validate_json(told) == kept


def test_a_forgotten_memory_is_no_hit() -> None:
    assert memory_json(entry(None)) is None
    assert hit_of(ranked(1), {1: entry(None)}, (), explain=False) is None


def test_a_hit_reads_as_the_message_would() -> None:
    long, twin = memory(1, content="one two three"), memory(2)
    records = {1: entry(long, spans=((0, 3), (4, 7))), 2: entry(twin), 3: entry(None)}

    hit = hit_of(ranked(1, chunk=1, same=(2, 3, 4)), records, ("name:Oslo",), explain=True)

    assert hit is not None
    [read] = Told(hits=(hit,), degraded=("graph: away",), mode="lookup").read().hits
    assert (read.memory, read.score, read.legs, read.excerpt) == (long, 0.25, ("dense",), "two")
    assert read.duplicates == (twin.id,)
    assert read.explain is not None
    assert (read.explain.path, read.explain.ranks) == (("name:Oslo",), {"dense": 1})
    assert hit == Hit.model_validate_json(hit).encode()


def test_the_first_memory_to_expire_is_known() -> None:
    soon, late = datetime(2026, 6, 1, tzinfo=UTC), datetime(2027, 6, 1, tzinfo=UTC)
    records = [entry(memory(1, expires_at=late)), entry(memory(2, expires_at=soon)), entry(memory(3)), entry(None)]

    assert first_to_expire(records) == soon
    assert first_to_expire(records[2:]) is None
