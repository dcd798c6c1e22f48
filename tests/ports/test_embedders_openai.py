"""The OpenAI-compatible adapter: what goes over the wire, and what each failure of the other side becomes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest
from aiohttp import web
from pydantic import SecretStr

from engram_contracts.errors import EngramError, Rejected, Unavailable
from engram_embedder.model_openai import OpenAIModel
from support.fake_embeddings import FakeEmbeddings, failing, fake_embeddings, hanging
from support.servers import free_port

KEY = SecretStr("sk-very-secret-1234")


@pytest.fixture
async def fake() -> AsyncIterator[FakeEmbeddings]:
    async with fake_embeddings() as fake:
        yield fake


@pytest.fixture
async def model(fake: FakeEmbeddings) -> AsyncIterator[OpenAIModel]:
    model = await OpenAIModel.open(fake.url, "fake-small", api_key=KEY, timeout_seconds=0.5)
    yield model
    await model.close()


async def failure(model: OpenAIModel) -> EngramError:
    with pytest.raises(EngramError) as caught:
        await model.embed(["one", "two"])
    return caught.value


async def test_the_dimension_is_found_out_by_one_call(fake: FakeEmbeddings, model: OpenAIModel) -> None:
    assert model.dimension == 24
    assert len(fake.requests) == 1


async def test_a_given_dimension_is_asked_for_and_needs_no_call(fake: FakeEmbeddings) -> None:
    model = await OpenAIModel.open(fake.url, "fake-small", dimensions=12)
    calls_to_open = len(fake.requests)

    vectors, _ = await model.embed(["short"])

    await model.close()
    assert calls_to_open == 0
    assert fake.requests[0]["dimensions"] == 12
    assert vectors.shape == (1, 12)


async def test_model_and_key_are_sent(fake: FakeEmbeddings, model: OpenAIModel) -> None:
    await model.embed(["hello"])

    assert fake.requests[-1] == {"model": "fake-small", "input": ["hello"]}
    assert fake.headers[-1]["Authorization"] == "Bearer sk-very-secret-1234"


async def test_without_a_key_none_is_sent(fake: FakeEmbeddings) -> None:
    model = await OpenAIModel.open(fake.url + "/", "fake-small")

    await model.close()
    assert "Authorization" not in fake.headers[-1]


async def test_the_providers_token_count_is_shared_out(model: OpenAIModel) -> None:
    _, tokens = await model.embed(["one", "one two three four five six seven"])

    assert sum(tokens) == 8
    assert tokens[1] > tokens[0]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 529])
async def test_a_busy_or_broken_provider_is_tried_again_when_it_says(
    fake: FakeEmbeddings, model: OpenAIModel, status: int
) -> None:
    fake.reply = failing(status, Retry_After="7")

    error = await failure(model)

    assert isinstance(error, Unavailable)
    assert error.retry_after == 7.0
    assert str(status) in error.message


async def test_a_retry_after_may_be_a_date(fake: FakeEmbeddings, model: OpenAIModel) -> None:
    fake.reply = failing(503, Retry_After=format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True))

    error = await failure(model)

    assert 80 < (error.retry_after or 0) <= 90


@pytest.mark.parametrize("header", ["soon", "", "-3", "Wed, 99 Foo"])
async def test_a_senseless_retry_after_is_harmless(fake: FakeEmbeddings, model: OpenAIModel, header: str) -> None:
    fake.reply = failing(503, Retry_After=header)

    error = await failure(model)

    assert error.retry_after in {None, 0.0}


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_refused_texts_are_refused_for_good(fake: FakeEmbeddings, model: OpenAIModel, status: int) -> None:
    fake.reply = failing(status, '{"error": {"message": "too long"}}')

    error = await failure(model)

    assert isinstance(error, Rejected)
    assert "too long" in error.message


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405])
async def test_what_the_operator_must_mend_does_not_condemn_the_texts(
    fake: FakeEmbeddings, model: OpenAIModel, status: int
) -> None:
    fake.reply = failing(status, Location="http://127.0.0.1:1/")

    assert isinstance(await failure(model), Unavailable)


async def test_an_error_is_short_and_never_holds_the_key(fake: FakeEmbeddings, model: OpenAIModel) -> None:
    fake.reply = failing(400, f"bad key {KEY.get_secret_value()} " + "blah " * 10_000)

    error = await failure(model)

    assert KEY.get_secret_value() not in error.message
    assert len(error.message) < 500


async def test_a_key_across_the_cut_of_a_long_error_is_not_shown_in_part(
    fake: FakeEmbeddings, model: OpenAIModel
) -> None:
    fake.reply = failing(400, "x" * 290 + KEY.get_secret_value())

    assert "sk-very" not in (await failure(model)).message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>",
        "[]",
        '{"data": 3}',
        '{"data": []}',
        '{"data": [{"index": 0, "embedding": [1, 2]}]}',
        '{"data": [{"index": 0, "embedding": [1, 2]}, {"index": 0, "embedding": [1, 2]}]}',
        '{"data": [{"index": 0, "embedding": []}, {"index": 1, "embedding": []}]}',
        '{"data": [{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1, 2]}]}',
        json.dumps({"data": [{"index": n, "embedding": [float("nan")] * 24} for n in range(2)]}),
        json.dumps({"data": [{"index": n, "embedding": [1e300] * 24} for n in range(2)]}),
    ],
)
async def test_rubbish_is_no_answer(fake: FakeEmbeddings, model: OpenAIModel, text: str) -> None:
    fake.reply = failing(200, text)

    assert isinstance(await failure(model), Unavailable)


async def test_another_dimension_than_agreed_is_never_passed_on(fake: FakeEmbeddings, model: OpenAIModel) -> None:
    fake.dimension = 32

    error = await failure(model)

    assert isinstance(error, Unavailable)
    assert "32 dimensions instead of 24" in error.message


async def test_a_provider_that_hangs_is_given_up(fake: FakeEmbeddings, model: OpenAIModel) -> None:
    release = asyncio.Event()
    fake.reply = hanging(release)

    started = time.monotonic()
    error = await failure(model)
    release.set()

    assert isinstance(error, Unavailable)
    assert time.monotonic() - started < 3


async def test_a_provider_that_drops_the_connection_is_away(fake: FakeEmbeddings, model: OpenAIModel) -> None:
    async def drop(_: dict[str, object]) -> web.StreamResponse:
        raise ConnectionResetError

    fake.reply = drop

    assert isinstance(await failure(model), Unavailable)


async def test_nobody_at_the_address_is_away_and_leaves_nothing_open() -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        await OpenAIModel.open(f"http://127.0.0.1:{free_port()}/v1", "fake-small")


async def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(Rejected, match="ENGRAM_EMBEDDER_BASE_URL"):
        await OpenAIModel.open("not an address", "fake-small")


async def test_vectors_too_small_to_see_are_scaled_up(fake: FakeEmbeddings, model: OpenAIModel) -> None:
    tiny = [{"index": n, "embedding": [1e-30] * 24} for n in range(2)]
    fake.reply = failing(200, json.dumps({"data": tiny}))

    vectors, _ = await model.embed(["one", "two"])

    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
