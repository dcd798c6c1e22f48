from __future__ import annotations

import pytest

from engram_contracts.errors import Rejected
from engram_embedder.guard import KEY, ModelInUse, claim
from support.recording_bus import MemoryBucket

STATIC = ModelInUse(model="static/wordllama-256", dimension=256)


async def test_the_first_embedder_writes_its_model_down() -> None:
    bucket = MemoryBucket()

    await claim(bucket, STATIC)

    assert bucket.entries[KEY] == b'{"model":"static/wordllama-256","dimension":256}'


async def test_the_same_model_may_come_again() -> None:
    bucket = MemoryBucket()
    await claim(bucket, STATIC)

    await claim(bucket, STATIC)

    assert list(bucket.entries) == [KEY]


@pytest.mark.parametrize(
    "other",
    [ModelInUse(model="openai/text-embedding-3-small", dimension=256), ModelInUse(model=STATIC.model, dimension=128)],
)
async def test_another_model_or_dimension_is_refused_with_both_names_and_a_way_out(other: ModelInUse) -> None:
    bucket = MemoryBucket()
    await claim(bucket, STATIC)

    with pytest.raises(Rejected) as caught:
        await claim(bucket, other)

    for word in (STATIC.model, "256", other.model, str(other.dimension), "ENGRAM_EMBEDDER=static", "data directory"):
        assert word in caught.value.message
    assert ModelInUse.model_validate_json(bucket.entries[KEY]) == STATIC


async def test_a_broken_entry_is_refused_and_left_alone() -> None:
    bucket = MemoryBucket({KEY: b"rubbish"})

    with pytest.raises(Rejected, match="rubbish"):
        await claim(bucket, STATIC)

    assert bucket.entries[KEY] == b"rubbish"
