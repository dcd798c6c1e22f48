"""Embeddings over HTTP, from anything that speaks OpenAI's `/embeddings`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

import aiohttp
import numpy as np
from pydantic import BaseModel, SecretStr, ValidationError

from engram_contracts.errors import EngramError, Rejected, Unavailable
from engram_embedder.ports import Embedded, Vectors, normalised
from engram_runtime.redacting import redacted

REFUSED_INPUT = frozenset({400, 413, 422})
"""What says that these texts will never be taken. Other refusals (key, model, address) are the operator's to mend."""

LONGEST_REFUSAL = 16 * 1024
"""Bytes of a provider's answer that are looked at for its words."""

MOST_WORDS = 300
"""Characters of a provider's answer that an error repeats."""


class _Item(BaseModel):
    index: int
    embedding: list[float]


class _Usage(BaseModel):
    prompt_tokens: int = 0


class _Answer(BaseModel):
    data: list[_Item]
    usage: _Usage | None = None


class OpenAIModel:
    """A model behind `base_url`, used over one HTTP session. Open with `OpenAIModel.open`."""

    batch_size = 64
    batch_characters = 40_000
    concurrency = 4

    def __init__(
        self, base_url: str, model: str, *, api_key: SecretStr | None, dimensions: int | None, timeout_seconds: float
    ) -> None:
        self.name = f"openai/{model}"
        self.dimension = dimensions or 0
        self._url = f"{base_url.rstrip('/')}/embeddings"
        self._body: dict[str, object] = {"model": model, **({"dimensions": dimensions} if dimensions else {})}
        self._key = api_key.get_secret_value() if api_key else ""
        self._timeout = timeout_seconds
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else None,
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
        )

    @classmethod
    async def open(
        cls,
        base_url: str,
        model: str,
        *,
        api_key: SecretStr | None = None,
        dimensions: int | None = None,
        timeout_seconds: float = 30.0,
    ) -> OpenAIModel:
        """A model ready for use. Without `dimensions`, one call finds out how many it has, and raises as `embed`."""
        opened = cls(base_url, model, api_key=api_key, dimensions=dimensions, timeout_seconds=timeout_seconds)
        try:
            if dimensions is None:
                opened.dimension = len((await opened.embed(["dimension"])).vectors[0])
        except EngramError:
            await opened.close()
            raise
        return opened

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """See `EmbeddingModel.embed`. `Unavailable` carries the provider's `Retry-After`."""
        answer = await self._post({**self._body, "input": list(texts)})
        vectors = self._vectors(answer, len(texts))
        return Embedded(vectors, _shared_out(answer.usage.prompt_tokens if answer.usage else 0, texts))

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _post(self, body: Mapping[str, Any]) -> _Answer:
        try:
            async with self._session.post(self._url, json=body, allow_redirects=False) as response:
                content = await response.read()
        except TimeoutError as error:
            raise Unavailable(f"{self._url} did not answer within {self._timeout:g} s") from error
        except aiohttp.InvalidURL as error:
            raise Rejected(f"{self._url!r} is no address; set ENGRAM_EMBEDDER_BASE_URL", field="base_url") from error
        except aiohttp.ClientError as error:
            raise Unavailable(f"{self._url} cannot be reached: {self._bounded(str(error))}") from error
        if response.status != 200:
            self._refuse(response, content, body)
        try:
            return _Answer.model_validate_json(content)
        except ValidationError as error:
            raise Unavailable(f"{self._url} answered what is no list of embeddings") from error

    def _refuse(self, response: aiohttp.ClientResponse, content: bytes, body: Mapping[str, Any]) -> NoReturn:
        said = self._bounded(content[:LONGEST_REFUSAL].decode(errors="replace"), body["input"])
        words = f"{self._url} answered {response.status}: {said}"
        if response.status in REFUSED_INPUT:
            raise Rejected(words)
        raise Unavailable(words, retry_after=_seconds(response.headers.get("Retry-After"), datetime.now(UTC)))

    def _bounded(self, words: str, texts: Sequence[str] = ()) -> str:
        return " ".join(redacted(words, key=self._key, texts=texts)[:MOST_WORDS].split())

    def _vectors(self, answer: _Answer, expected: int) -> Vectors:
        items = sorted(answer.data, key=lambda item: item.index)
        lengths = {len(item.embedding) for item in items}
        if [item.index for item in items] != list(range(expected)) or len(lengths) != 1:
            raise Unavailable(f"{self._url} did not answer one embedding for each of {expected} texts")
        if lengths != {self.dimension or max(lengths)}:
            raise Unavailable(
                f"{self._url} answered embeddings of {max(lengths)} dimensions instead of {self.dimension}; "
                "set ENGRAM_EMBEDDER_MODEL and ENGRAM_EMBEDDER_DIMENSION to what it serves"
            )
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused below
            vectors = np.array([item.embedding for item in items], np.float32)
        if not np.isfinite(vectors).all():
            raise Unavailable(f"{self._url} answered embeddings that are not numbers")
        return normalised(vectors)


def _shared_out(tokens: int, texts: Sequence[str]) -> list[int]:
    """The batch's tokens, spread by length; four characters make one where the provider does not count."""
    characters = sum(map(len, texts)) or 1
    share = tokens / characters if tokens else 0.25
    return [max(1, round(len(text) * share)) for text in texts]


def _seconds(retry_after: str | None, now: datetime) -> float | None:
    """How long a `Retry-After` header (RFC 9110: seconds, or a date) asks to wait."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds())
