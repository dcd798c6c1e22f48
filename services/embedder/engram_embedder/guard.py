"""One store, one model: the first embedder writes its model down, a different one is refused."""

from __future__ import annotations

from pydantic import ValidationError

from engram_contracts.errors import Rejected, Unavailable
from engram_contracts.messages import Message
from engram_runtime.bus import KeyValue

KEY = "embedding"
"""Where the model is written down, in the bucket of settings."""


class ModelInUse(Message):
    """The model that all stored vectors come from."""

    model: str
    dimension: int


async def claim(settings: KeyValue, mine: ModelInUse) -> None:
    """Make sure that the stored vectors are, or will be, of this model. A repeat changes nothing.

    Raises `Rejected` when they are of another one: vectors of two models cannot be compared.
    """
    if await settings.create(KEY, mine.encode()):
        return
    stored = await settings.get(KEY)
    if stored is None:
        raise Unavailable(f"{KEY!r} vanished from the settings while it was read; start again", retry_after=1.0)
    theirs = _decode(stored)
    if theirs != mine:
        raise Rejected(_refusal(theirs, mine))


def _decode(stored: bytes) -> ModelInUse:
    try:
        return ModelInUse.model_validate_json(stored)
    except ValidationError as error:
        raise Rejected(f"the settings' {KEY!r} is not readable as a model: {stored[:200]!r}") from error


def _refusal(theirs: ModelInUse, mine: ModelInUse) -> str:
    old = theirs.model.partition("/")[0]
    return (
        f"what is stored was embedded by {theirs.model!r} with {theirs.dimension} dimensions, this embedder is "
        f"{mine.model!r} with {mine.dimension}; their vectors cannot be mixed. Go back to the old one "
        f"(ENGRAM_EMBEDDER={old} and its model), or start with a new data directory and ingest again"
    )
