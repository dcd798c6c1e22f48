"""A tenant whose text is encrypted where it is stored, beside one whose text is not: files, answers, keys."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from engram.cli import app
from engram.door import Door
from engram_contracts.commands import Remember
from engram_contracts.errors import EngramError
from engram_contracts.ids import new_id
from engram_contracts.memory import MemoryFields
from engram_contracts.topology import dead_subject, work_subject
from engram_runtime.bus import Entry
from engram_runtime.nats_bus import open_bus
from engram_runtime.sealing import master_id, new_master_key
from engram_runtime.settings import EncryptionSettings
from engram_runtime.vault import open_vault
from support.files import files_with
from support.system import System, embedded_system
from support.waiting import holds

OLD, NEW = new_master_key(), new_master_key()
VAULTED, OPEN = "vaulted", "unsealed"
WORDS = {VAULTED: "xylophone-of-marzipan", OPEN: "cathedral-of-seashells"}
NAMES = {VAULTED: "Zebulonia Quarrington", OPEN: "Philomena Westerhout"}
STORES = ("nats", "vectors", "graph")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encryption")


@pytest.fixture(scope="module")
def system(folder: Path) -> Iterator[System]:
    with embedded_system(folder, environ={"ENGRAM_ENCRYPTION_KEY": OLD}) as running:
        for tenant in (VAULTED, OPEN):
            flags = ["--encrypted"] if tenant == VAULTED else []
            engram(running, "tenants", "create", tenant, "--plan", "unlimited", *flags)
        yield running


@pytest.fixture(scope="module")
async def told(system: System) -> dict[str, list[str]]:
    """Ids of what both tenants were told, in every way there is."""
    return {tenant: await tell(system, tenant) for tenant in (VAULTED, OPEN)}


def engram(system: System, *arguments: str) -> str:
    given = {"ENGRAM_ENCRYPTION_KEY": OLD}
    done = CliRunner().invoke(app, ["--data-dir", str(system.data_dir), *arguments], env=given)
    assert done.exit_code == 0, done.output
    return done.output


def door(system: System, tenant: str) -> Door:
    key = (system.data_dir / "system.key").read_text().strip()
    return Door(system.url, key, tenant=tenant)


async def tell(system: System, tenant: str) -> list[str]:
    word, name = WORDS[tenant], NAMES[tenant]
    text = f"{name} keeps the {word} in room"
    long = f"The story of the {word} by {name}. " * 60
    async with door(system, tenant) as calls:
        said = [*({"content": f"{text} {n}.", "speaker": "Mara"} for n in range(6)), {"content": long}]
        made = await calls.call("POST", "/v1/memories", {"memories": said}, wait="done")
        ids: list[str] = [each["id"] for each in made["data"]["memories"]]
        await calls.call("PATCH", f"/v1/memories/{ids[0]}", {"content": f"The {word} moved."}, wait="done")
        verdict = {"verdict": "useful", "note": f"{word} indeed", "query": f"where is the {word}"}
        await calls.call("POST", f"/v1/memories/{ids[1]}/feedback", verdict, wait="done")
        await calls.call("DELETE", f"/v1/memories/{ids[2]}", wait="done")
        assert calls._session is not None
        calls._session.headers["Idempotency-Key"] = "asked-once"
        await calls.call("POST", "/v1/think", {"question": f"Where does {name} keep the {word}?"})
    return ids


async def bury(system: System, tenant: str) -> str:
    """Have a dead letter of a command that says the word; the command's id."""
    memory = MemoryFields(content=f"Buried with the {WORDS[tenant]}")
    command = Remember(id=new_id(), memory_id=new_id(), accepted_at=datetime.now(UTC), memory=memory)
    headers = {"Engram-Dead-Subject": work_subject(tenant, "remember"), "Engram-Original-Nats-Msg-Id": command.id}
    entry = Entry(subject=dead_subject("embedder", tenant), body=command.encode(), id=command.id, headers=headers)
    encryption = EncryptionSettings(key=SecretStr(OLD))
    async with open_bus(system.nats, name="test") as bus, open_vault(bus, encryption) as bus.vault:
        [outcome] = await bus.append([entry])
    assert not isinstance(outcome, Exception), outcome
    return command.memory_id


async def exported(calls: Door) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = await calls.call("GET", "/v1/export", limit=500, cursor=cursor)
        records += page["data"]["records"]
        cursor = page["meta"].get("next")
        if cursor is None:
            return records


def spellings(text: str) -> list[bytes]:
    """The text as it would be found in a file: as it is, and in the middle of base64."""
    return [text.encode(), *(base64.b64encode(b" " * n + text.encode())[4:-4] for n in range(3))]


def leaks(system: System) -> list[str]:
    words = (WORDS[VAULTED], NAMES[VAULTED], NAMES[VAULTED].split()[0])
    return [file for word in words for file in files_with(system.data_dir, spellings(word))]


async def recalled(calls: Door, word: str) -> list[dict[str, Any]]:
    answer = await calls.call("POST", "/v1/recall", {"query": f"where is the {word}", "limit": 20})
    hits: list[dict[str, Any]] = answer["data"]["hits"]
    return hits


async def test_what_an_encrypted_tenant_says_is_in_no_file_and_what_another_says_is_in_every_store(system, told):
    replayed = await bury(system, VAULTED)
    async with door(system, VAULTED) as calls:
        [letter] = (await calls.call("GET", "/v1/dead-letters"))["data"]["letters"]
        shown = (await calls.call("GET", f"/v1/dead-letters/{letter['sequence']}"))["data"]
        body = shown["body"]
        body["memory"]["content"] = f"Edited with the {WORDS[VAULTED]}"
        await calls.call("POST", f"/v1/dead-letters/{letter['sequence']}/replay", {"payload": body})

        async def is_there() -> bool:
            try:
                found = (await calls.call("GET", f"/v1/memories/{replayed}"))["data"]
            except EngramError:
                return False
            return bool(found["content"] == f"Edited with the {WORDS[VAULTED]}")

        assert await holds(is_there, seconds=30)

    assert leaks(system) == []
    for store in STORES:
        assert files_with(system.data_dir / store, spellings(WORDS[OPEN])), store


@pytest.mark.parametrize("tenant", [VAULTED, OPEN])
async def test_everything_that_is_read_is_as_it_was_said(system, told, tenant):
    word, ids = WORDS[tenant], told[tenant]
    async with door(system, tenant) as calls:
        hits = await recalled(calls, word)
        assert hits and all(word in hit["memory"]["content"] for hit in hits)
        assert any(word in (hit["excerpt"] or "") for hit in hits)
        assert word in (await calls.call("GET", f"/v1/memories/{ids[1]}"))["data"]["content"]
        listed = (await calls.call("GET", "/v1/memories", speaker="Mara"))["data"]["memories"]
        assert len(listed) == 5 and all(word in each["content"] for each in listed)
        history = (await calls.call("GET", f"/v1/memories/{ids[0]}/history"))["data"]["versions"]
        assert [each["memory"]["content"] for each in history] == [
            f"{NAMES[tenant]} keeps the {word} in room 0.",
            f"The {word} moved.",
        ]
        judged = (await calls.call("GET", f"/v1/memories/{ids[1]}/history"))["data"]["feedback"]
        assert (judged[0]["note"], judged[0]["query"]) == (f"{word} indeed", f"where is the {word}")
        assert calls._session is not None
        calls._session.headers["Idempotency-Key"] = "asked-once"
        again = await calls.call("POST", "/v1/think", {"question": f"Where does {NAMES[tenant]} keep the {word}?"})
        assert word in again["data"]["answer"]
        records = await exported(calls)
        said = [record for record in records if record["type"] == "answer"]
        assert word in said[0]["question"]
        assert all(word in each["memory"]["content"] for each in records if each["type"] == "memory")
        with pytest.raises(EngramError, match="no memory"):
            await calls.call("GET", f"/v1/memories/{ids[2]}")


async def test_names_in_an_encrypted_text_are_no_nodes_and_its_speakers_are(system, told):
    async with door(system, VAULTED) as calls:
        nodes = {node["id"] for node in (await calls.call("GET", "/v1/graph/nodes"))["data"]["nodes"]}
    async with door(system, OPEN) as calls:
        others = {node["name"] for node in (await calls.call("GET", "/v1/graph/nodes"))["data"]["nodes"]}

    assert nodes == {"person:Mara"}
    assert NAMES[OPEN] in others


async def test_stores_are_compared_and_built_anew_without_a_trace_of_the_text(system, told):
    rebuilds = (["rebuild", "vectors", "--tenant", VAULTED], ["rebuild", "graph"])
    for arguments in (["verify"], *rebuilds, ["verify"]):
        await asyncio.to_thread(engram, system, *arguments, "--json")

    async with door(system, VAULTED) as calls:
        assert len(await recalled(calls, WORDS[VAULTED])) > 3
        nodes = (await calls.call("GET", "/v1/graph/nodes"))["data"]["nodes"]
    assert leaks(system) == []
    assert [node["id"] for node in nodes] == ["person:Mara"]


async def test_a_tenant_that_is_there_is_not_made_an_encrypted_one(system):
    async with door(system, "_system") as calls:
        with pytest.raises(EngramError, match="there is a tenant"):
            await calls.call("POST", "/v1/tenants", {"name": OPEN, "encrypted": True})
        with pytest.raises(EngramError, match="encrypted"):
            await calls.call("PATCH", f"/v1/tenants/{OPEN}", {"encrypted": True})
        shown = (await calls.call("GET", f"/v1/tenants/{VAULTED}"))["data"]

    assert shown["encrypted"] is True
    assert await asyncio.to_thread(keys, system) == {VAULTED: master_id(base64.b64decode(OLD))}


def test_a_deleted_tenant_takes_its_data_key_along(system):
    engram(system, "tenants", "create", "passing", "--encrypted")
    assert "passing" in keys(system)

    engram(system, "tenants", "delete", "passing", "--yes")

    assert "passing" not in keys(system)


def test_a_lost_key_refuses_to_start_and_another_one_is_taken_after_its_rotation(system, told, folder):
    environ = {"ENGRAM_ENCRYPTION_KEY": f"{NEW}\n{OLD}"}
    done = CliRunner().invoke(app, ["--data-dir", str(system.data_dir), "encryption", "rotate", "--json"], env=environ)
    assert json.loads(done.output)["rotated"] == [VAULTED]
    done = CliRunner().invoke(app, ["--data-dir", str(system.data_dir), "encryption", "rotate", "--json"], env=environ)
    assert json.loads(done.output)["already"] == [VAULTED]
    system.process.terminate()
    assert system.process.wait(30) == 0

    with pytest.raises(RuntimeError, match="before it was ready"), embedded_system(folder):
        pass
    assert "no encryption key was given" in (folder / "serve.log").read_text()

    file = folder / "master.key"
    file.write_text(f"{NEW}\n")
    with embedded_system(folder, environ={"ENGRAM_ENCRYPTION_KEY_FILE": str(file)}) as again:
        hits = asyncio.run(read_again(again))
        assert leaks(again) == []
    assert len(hits) > 3 and all(WORDS[VAULTED] in hit["memory"]["content"] for hit in hits)


async def read_again(system: System) -> list[dict[str, Any]]:
    async with door(system, VAULTED) as calls:
        return await recalled(calls, WORDS[VAULTED])


def keys(system: System) -> dict[str, str]:
    """The encrypted tenants, and the id of the master key of each."""
    listed = json.loads(engram(system, "encryption", "status", "--json"))["tenants"]
    assert all(each["given"] for each in listed)
    return {each["tenant"]: each["master"] for each in listed}
