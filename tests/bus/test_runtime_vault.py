"""Data keys on a real broker: learnt when they are needed, watched, rotated; and what refuses to begin without them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from engram_contracts.errors import Rejected
from engram_contracts.ids import new_id
from engram_contracts.topology import DATA_KEYS, DEAD, IDEMPOTENCY, dead_subject
from engram_runtime.bus import Entry
from engram_runtime.nats_bus import NatsBus, open_bus
from engram_runtime.provision import provision
from engram_runtime.sealing import MasterKeys, new_master_key, sealed
from engram_runtime.settings import EncryptionSettings, NatsSettings
from engram_runtime.vault import Vault, open_vault, rotated, tenants_in
from support.servers import nats_server
from support.waiting import holds

OLD, NEW = new_master_key(), new_master_key()
BODY = b'{"content":"The xylophone stands in Ghent."}'


def given(*keys: str) -> EncryptionSettings:
    return EncryptionSettings(key=SecretStr(",".join(keys)) if keys else None)


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
async def broker(tmp_path: Path):
    with nats_server(tmp_path / "nats") as server:
        async with open_bus(NatsSettings(url=server.url), name="test", durability="process") as bus:
            await provision(bus.jetstream)
            yield bus, NatsSettings(url=server.url)


async def stored(bus: NatsBus) -> list[bytes]:
    """Bodies as they lie on the stream."""
    return [(await bus.jetstream.get_msg(DEAD.name, seq=each.sequence)).data or b"" for each in await read(bus)]


async def read(bus: NatsBus):
    return await bus.archive(DEAD).read(1, pattern="engram.dead.>", limit=10)


def letter(tenant: str) -> Entry:
    return Entry(subject=dead_subject("graph", tenant), body=BODY, id=new_id())


async def test_what_one_process_seals_another_opens_that_learns_the_key_as_it_comes(broker):
    bus, settings = broker
    async with open_vault(bus, given(OLD)) as bus.vault, open_bus(settings, name="other") as other:
        other.vault = Vault(MasterKeys.parse(OLD), other.bucket(DATA_KEYS))  # one that hears of no change
        await bus.vault.create("acme", now())
        await bus.vault.create("acme", now())
        await bus.append([letter("acme"), letter("beta")])
        await bus.bucket(IDEMPOTENCY).put("acme.route.key", BODY)

        assert [sealed(body) for body in await stored(bus)] == [True, False]
        assert [each.body for each in await read(other)] == [BODY, BODY]
        found = await other.read(DEAD, 1)
        assert found is not None and found.body == BODY
        assert await other.bucket(IDEMPOTENCY).get("acme.route.key") == BODY
        assert other.vault.seals("acme")
        async with other.tail(DEAD, "engram.dead.>", after=0) as batches:
            assert (await anext(batches))[0].body == BODY


async def test_keys_that_come_and_go_are_known_to_who_watches(broker):
    bus, settings = broker
    async with (
        open_vault(bus, given(OLD)) as bus.vault,
        open_bus(settings, name="other") as other,
        open_vault(other, given(OLD)) as other.vault,
    ):
        await bus.vault.create("acme", now())
        assert await holds(lambda: _true(other.vault.seals("acme")))
        [sent] = other.vault.entries([letter("acme")])
        await bus.vault.destroy("acme")
        assert await holds(lambda: _true(not other.vault.seals("acme")))

    fresh = Vault(MasterKeys.parse(OLD), bus.bucket(DATA_KEYS))
    with pytest.raises(Rejected, match="is not kept here"):
        await fresh.opened(sent.body)


async def _true(said: bool) -> bool:
    return said


async def test_a_lost_or_wrong_master_key_refuses_and_changes_nothing(broker):
    bus, _ = broker
    async with open_vault(bus, given()) as empty:
        with pytest.raises(Rejected, match="no encryption key"):
            await empty.create("acme", now())
    async with open_vault(bus, given(OLD)) as vault:
        await vault.create("acme", now())
    before = await bus.bucket(DATA_KEYS).entry("acme")

    for keys, words in (((), "1 tenants are encrypted"), ((NEW,), "'acme' is wrapped by master key")):
        with pytest.raises(Rejected, match=words):
            async with open_vault(bus, given(*keys)):
                pass

    assert await bus.bucket(DATA_KEYS).entry("acme") == before


async def test_a_rotation_goes_on_where_it_was_and_running_processes_go_on_meanwhile(broker):
    bus, _ = broker
    async with open_vault(bus, given(NEW, OLD)) as bus.vault:
        for tenant in ("acme", "beta"):
            await bus.bucket(DATA_KEYS).create(tenant, MasterKeys.parse(OLD).fresh(tenant, now()).encode())
            assert await holds(lambda name=tenant: _true(bus.vault.seals(name)))
        await bus.append([letter("acme")])
        both = MasterKeys.parse(f"{NEW} {OLD}")
        record = await bus.bucket(DATA_KEYS).get("acme")
        assert record is not None

        first = await rotated(bus.bucket(DATA_KEYS), both, now)
        again = await rotated(bus.bucket(DATA_KEYS), both, now)
        await bus.append([letter("acme")])

        assert (first["rotated"], again["already"]) == (["acme", "beta"], ["acme", "beta"])
        assert await tenants_in(bus.bucket(DATA_KEYS)) == ["acme", "beta"]
    async with open_vault(bus, given(NEW)) as bus.vault:
        assert [each.body for each in await read(bus)] == [BODY, BODY]
    with pytest.raises(Rejected):
        async with open_vault(bus, given(OLD)):
            pass
