"""The Python client against a running Engram: both forms of it, its examples, and a network that breaks."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from engram_client import AsyncEngram, Engram, Policy
from engram_client.asynchronous import AsyncEngram as Asynchronous
from engram_contracts.answers import Thoughts
from engram_contracts.errors import Forbidden, NotFound, Rejected, Unauthorized, Unavailable
from engram_contracts.live import Happening
from engram_contracts.memory import Filters, MemoryChanges, NewMemory
from engram_contracts.retry import Retry
from support.servers import ROOT, free_port
from support.system import System
from support.toxic import Toxin, toxic_proxy

SOON = Policy(retry=Retry(attempts=20, first=0.05, most=0.5))


@pytest.fixture(scope="module")
async def key(shared_system: System) -> str:
    return await shared_system.new_key("pottery", "admin")


@pytest.fixture
async def engram(shared_system: System, key: str) -> AsyncIterator[AsyncEngram]:
    async with AsyncEngram(shared_system.url, key) as client:
        yield client


async def test_a_memory_lives_through_everything_that_can_be_done_with_it(engram: AsyncEngram) -> None:
    kept = await engram.remember(NewMemory(content="The kiln is broken.", tags=("kiln",)), wait="done")
    await engram.revise(kept.id, MemoryChanges(content="The kiln works again."), wait="done")
    await engram.feedback(kept.id, "useful", query="kiln")

    found = await engram.recall("kiln", filters=Filters(tags=("kiln",)), explain=True, written=[kept.job])
    packed = await engram.context("kiln", budget=200)

    assert found.hits[0].memory.content == "The kiln works again." and found.hits[0].explain is not None
    assert "The kiln works again." in packed.text
    assert [one.version for one in (await engram.history(kept.id)).versions] == [1, 2]
    assert (await engram.settled(kept.job)).state == "done"
    assert [event.name async for event in engram.follow(kept.job)] == ["job", "done"]
    await engram.forget(kept.id, wait="done")
    with pytest.raises(NotFound):
        await engram.memory(kept.id)


async def test_the_graph_can_be_drawn_and_walked(engram: AsyncEngram) -> None:
    await engram.put_node("person:Ines", {"role": "potter"}, wait="done")
    await engram.put_edge("person:Ines", "works_at", "name:Studio", weight=2.0, wait="done")

    assert (await engram.path("person:Ines", "name:Studio")).nodes == ("person:Ines", "name:Studio")
    assert (await engram.node("person:Ines")).edges[0].type == "works_at"
    assert {one.node.id for one in (await engram.neighbours("person:Ines")).nodes} >= {"name:Studio"}
    assert "person:Ines" in {node.id async for node in engram.nodes(node_type="person", page=1)}
    await engram.drop_edge("person:Ines", "works_at", "name:Studio", wait="done")
    await engram.drop_node("person:Ines", wait="done")


async def test_lists_come_page_by_page_without_gaps_or_repeats(engram: AsyncEngram) -> None:
    many = [NewMemory(content=f"Bowl {n} is glazed.", session_id="bowls") for n in range(23)]
    made = await engram.remember_many(many, wait="done")

    listed = [memory.id async for memory in engram.memories(Filters(session_id="bowls"), page=5)]

    assert made.accepted == 23
    assert len(listed) == len(set(listed)) == 23


async def test_an_answer_is_streamed_and_is_the_one_that_comes_in_one_piece(engram: AsyncEngram) -> None:
    await engram.remember("Mara paid the rent on Monday.", wait="indexed")

    told = [event async for event in engram.stream_think("Who paid the rent?")]
    whole = await engram.think("Who paid the rent?")

    assert [event.name for event in told][:: len(told) - 1] == ["accepted", "done"]
    assert isinstance(told[-1].data, Thoughts) and told[-1].data.answer == whole.answer
    assert "".join(event.data.text for event in told if event.name == "token").strip() == whole.answer


async def test_events_are_neither_lost_nor_repeated_when_connections_break(
    shared_system: System, engram: AsyncEngram, key: str
) -> None:
    heard: list[str] = []
    port = urlsplit(shared_system.url).port or 0
    with toxic_proxy(port, chance=itertools.cycle([0.5])) as proxy:
        async with AsyncEngram(f"http://127.0.0.1:{proxy.port}", key, policy=SOON) as far:
            opened = asyncio.Event()
            watching = asyncio.create_task(listen(far, heard, opened, wanted=18))
            await asyncio.wait_for(opened.wait(), 30)
            for n in range(18):
                if n % 6 == 5:
                    proxy.infect(Toxin(ill="refuse"))
                    await engram.remember(NewMemory(content=f"Cup {n}.", user_id="cups"), wait="done")
                    proxy.cure()
                else:
                    await engram.remember(NewMemory(content=f"Cup {n}.", user_id="cups"), wait="done")
            await asyncio.wait_for(watching, 60)

    assert heard == [f"Cup {n}." for n in range(18)]


async def listen(engram: AsyncEngram, heard: list[str], opened: asyncio.Event, *, wanted: int) -> None:
    async for event in engram.events(kinds=["remembered"], user_id="cups"):
        opened.set()
        if isinstance(event.data, Happening):
            heard.append(event.data.data["memory"]["content"])
        if len(heard) == wanted:
            return


async def test_a_write_whose_answer_was_lost_is_sent_again_and_has_one_effect(
    shared_system: System, engram: AsyncEngram, key: str
) -> None:
    port = urlsplit(shared_system.url).port or 0
    with toxic_proxy(port, chance=itertools.cycle([0.5])) as proxy:
        async with AsyncEngram(f"http://127.0.0.1:{proxy.port}", key, timeout=0.5, policy=SOON) as far:
            proxy.infect(Toxin(ill="half open"))
            sending = asyncio.create_task(far.remember(NewMemory(content="Once.", session_id="once")))
            while not [memory async for memory in engram.memories(Filters(session_id="once"))]:
                await asyncio.sleep(0.02)
            proxy.infect(Toxin(ill="refuse"))
            proxy.cure()
            kept = await asyncio.wait_for(sending, 30)

    assert (await engram.settled(kept.job)).state == "done"
    assert [memory.id async for memory in engram.memories(Filters(session_id="once"))] == [kept.id]


async def test_errors_are_classes(shared_system: System, engram: AsyncEngram) -> None:
    with pytest.raises(Rejected, match="limit"):
        await engram.recall("a", limit=1_000)
    async with AsyncEngram(shared_system.url, "eng_live_wrong") as stranger:
        with pytest.raises(Unauthorized):
            await stranger.usage()
    async with AsyncEngram(shared_system.url, await shared_system.new_key("pottery", "reader")) as reader:
        with pytest.raises(Forbidden):
            await reader.remember("a")
    async with AsyncEngram(f"http://127.0.0.1:{free_port()}", policy=Policy(retry=Retry(attempts=2))) as nobody:
        with pytest.raises(Unavailable, match="no answer from the door"):
            await nobody.ready()


def test_the_synchronous_client_does_the_same(shared_system: System, key: str) -> None:
    with Engram(shared_system.url, key) as engram:
        kept = engram.remember("Joel glazes on Tuesdays.", wait="indexed")
        told = [event.name for event in engram.stream_think("When does Joel glaze?")]

        assert kept.id in {hit.memory.id for hit in engram.recall("When does Joel glaze?").hits}
        assert (told[0], told[-1]) == ("accepted", "done")
        assert next(iter(engram.events(after=0))).name == "open"
        assert engram.call("GET", "/v1/memories", limit=1)["meta"]["next"]
    names = {name for name in vars(Asynchronous) if not name.startswith("_")}
    assert names == {name for name in vars(Engram) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("example", "said"), [("client.py", "30 notes of the kiln"), ("client_streaming.py", "Mara feeds the kiln at six.")]
)
def test_the_examples_run(shared_system: System, key: str, example: str, said: str) -> None:
    environ = {**os.environ, "ENGRAM_URL": shared_system.url, "ENGRAM_API_KEY": key}

    done = subprocess.run(
        [sys.executable, ROOT / "examples" / example],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert said in done.stdout
