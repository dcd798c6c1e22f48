from __future__ import annotations

import pytest

from engram_contracts.commands import Command, Think
from engram_contracts.errors import Rejected
from engram_contracts.ids import new_id
from engram_contracts.questions import Recall, Recollection
from engram_reasoner.service import open_service
from engram_reasoner.settings import Settings
from engram_runtime.service import Delivery
from engram_runtime.settings import load
from support.fake_model import Reply, fake_model
from support.recalled import STORED, recollection
from support.recording_bus import RecordingBus

KEY = "sk-very-secret-0123456789"


def settings(**environ: str) -> Settings:
    return load(Settings, environ={"ENGRAM_CONFIG": "/dev/null", **environ})


def test_a_model_is_configured_by_the_environment() -> None:
    set_up = settings(
        ENGRAM_LLM_BASE_URL="https://models.test/v1/", ENGRAM_LLM_MODEL="m", ENGRAM_LLM_API_KEY=KEY,
        ENGRAM_REASONER_EXTRACT="true", ENGRAM_REASONER_CONCURRENCY="3",
    )  # fmt: skip

    assert set_up.llm.configured
    assert set_up.llm.base_url == "https://models.test/v1"
    assert (set_up.reasoner.extract, set_up.reasoner.concurrency) == (True, 3)
    assert KEY not in repr(set_up)


def test_without_a_model_there_is_none() -> None:
    assert not settings().llm.configured
    assert not settings(ENGRAM_LLM_BASE_URL="http://127.0.0.1:1/v1").llm.configured


@pytest.mark.parametrize("url", ["models.test/v1", "ftp://models.test", "http://", "/v1"])
def test_an_address_that_is_none_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(Rejected, match=r"llm\.base_url.*http://"):
        settings(ENGRAM_LLM_BASE_URL=url)


async def test_the_check_names_what_is_missing_for_a_model() -> None:
    async with open_service(settings(ENGRAM_LLM_BASE_URL="http://127.0.0.1:1/v1"), RecordingBus()) as service:
        check = await service.checks["model"]()

    assert (check.ok, check.detail) == (True, "extractive: llm.model is not set")


async def test_only_a_model_follows_the_log_and_only_when_told() -> None:
    model = {"ENGRAM_LLM_BASE_URL": "http://127.0.0.1:1/v1", "ENGRAM_LLM_MODEL": "m"}
    follows = []
    for environ in ({"ENGRAM_REASONER_EXTRACT": "true"}, model, {**model, "ENGRAM_REASONER_EXTRACT": "true"}):
        async with open_service(settings(**environ), RecordingBus()) as service:
            follows.append([following.consumer.name for following in service.follows])

    assert follows == [[], [], ["reasoner-extract"]]


async def test_the_check_tells_how_the_last_call_went() -> None:
    async def recall(_: Recall) -> Recollection:
        return recollection()

    async with fake_model() as model:
        set_up = settings(ENGRAM_LLM_BASE_URL=model.base_url, ENGRAM_LLM_MODEL="m-1")
        async with open_service(set_up, RecordingBus(answers={Recall: recall})) as service:
            think, check = service.takes[0].handler, service.checks["model"]
            before = await check()
            model.then(Reply(status=503, words="full"))
            await think([question()])
            during = await check()
            await think([question()])
            after = await check()

    assert (before.ok, before.detail) == (True, "m-1")
    assert (during.ok, during.detail) == (False, "the model answered 503: full")
    assert (after.ok, after.detail) == (True, "m-1")


def question() -> Delivery[Command]:
    command = Think(id=new_id(), accepted_at=STORED, question="Who?")
    return Delivery(tenant="acme", event="think", message=command, sequence=1, at=STORED, correlation=None)
