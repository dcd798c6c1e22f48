"""Tokens at the door: what counts, for which tenant, and that nothing forged does."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from engram_contracts.control import Bounds, KeyRecord
from engram_contracts.questions import ListMemories, MemoryPage
from engram_contracts.topology import KEYS
from engram_runtime.keys import create_tenant, key_id
from support.door import DoorUnderTest, Reply, open_door
from support.issuer import AUDIENCE, ISSUER, Issuer, forged, part, serving, signed_by_hand
from support.servers import NatsServer, nats_server

SECRET = "s" * 32
AUTH = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory):
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(scope="module")
async def issuer() -> AsyncIterator[Issuer]:
    async with serving(Issuer()) as issuer:
        yield issuer


@pytest.fixture(scope="module")
async def door(
    broker: NatsServer, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[DoorUnderTest]:
    auth = {**AUTH, "jwt_jwks_url": issuer.url, "jwt_jwks_private": True, "host_suffix": "engram.test"}
    async with open_door(broker, tmp_path_factory.mktemp("data"), auth=auth) as door:
        door.parts.scripts = {ListMemories: lambda _: MemoryPage(memories=())}
        await create_tenant(door.bus, "acme")
        yield door


async def asked(door: DoorUnderTest, token: str, **headers: str) -> Reply:
    return await door.call("GET", "/v1/memories", key=token, headers=headers)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
async def test_a_token_of_the_issuer_counts(door: DoorUnderTest, issuer: Issuer, algorithm: str) -> None:
    assert (await asked(door, issuer.token(algorithm))).status == 200


async def test_nothing_forged_counts_and_nothing_is_told(
    door: DoorUnderTest, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Issuer()) as other:
        with caplog.at_level(logging.INFO):
            for name, token in forged(issuer, other).items():
                headers = {"Authorization": f"Bearer {token}"}
                async with door.session.get(door.url + "/v1/memories", headers=headers) as answer:
                    said = await answer.text()

                    assert answer.status == 401, name
                    assert "Traceback" not in said and "jwt" not in said.lower(), name

        assert other.served == 0
    assert not [record for record in caplog.records if record.exc_info]


def flipped(good: str, places: int, *, seed: int = 7) -> Iterator[tuple[int, str]]:
    """The token with one bit changed, at places all over it and where its parts end."""
    chance = random.Random(seed)
    ends = {len(good) - 1, good.rindex(".") - 1, good.rindex(".") + 1, good.index(".") - 1}
    for place in sorted({*chance.sample(range(len(good)), places), *ends}):
        other = chr(ord(good[place]) ^ (1 << chance.randrange(6)))
        if not other.isprintable() or other.isspace():
            other = "A" if good[place] != "A" else "B"
        yield place, good[:place] + other + good[place + 1 :]


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
async def test_no_bit_of_a_token_can_be_changed(door: DoorUnderTest, issuer: Issuer, algorithm: str) -> None:
    for place, token in flipped(issuer.token(algorithm), 80):
        assert (await asked(door, token)).status == 401, place


async def test_a_token_that_no_head_can_hold_is_refused_in_the_form_of_all_errors(
    door: DoorUnderTest, issuer: Issuer
) -> None:
    for size in (9_000, 100_000, 1_000_000):
        reply = await asked(door, issuer.token(more="x" * size))

        assert (reply.status, reply.error["code"]) == (400, "INVALID_REQUEST")
        assert b"xxx" not in reply.raw and b"Traceback" not in reply.raw


async def test_the_tenant_comes_from_the_claim_the_host_or_the_header_and_from_one_alone(
    door: DoorUnderTest, issuer: Issuer
) -> None:
    bare = issuer.token(tenant=None, role="admin")
    await door.call("POST", "/v1/members", {"subject": "ann", "role": "reader"})

    by_header = await asked(door, bare, **{"X-Engram-Tenant": "default"})
    by_host = await asked(door, bare, Host="default.engram.test")
    nowhere = await asked(door, bare)
    two = await asked(door, bare, Host="acme.engram.test", **{"X-Engram-Tenant": "default"})
    against = await asked(door, issuer.token(), **{"X-Engram-Tenant": "acme"})
    no_member = await asked(door, bare, **{"X-Engram-Tenant": "acme"})
    wrote = await door.call(
        "POST", "/v1/memories", {"content": "x"}, key=bare, headers={"X-Engram-Tenant": "default"}
    )  # fmt: skip

    assert (by_header.status, by_host.status) == (200, 200)
    assert (nowhere.status, two.status, against.status) == (400, 400, 400)
    assert (no_member.status, wrote.status) == (403, 403)


async def test_a_member_is_what_an_admin_wrote_down_and_no_more_once_removed(
    door: DoorUnderTest, issuer: Issuer
) -> None:
    token = issuer.token(tenant=None, sub="bea")
    headers = {"X-Engram-Tenant": "default"}
    made = await door.call("POST", "/v1/members", {"subject": "bea", "role": "writer", "user_ids": ["bea"]})

    inside = await door.call("POST", "/v1/memories", {"content": "x"}, key=token, headers=headers)
    outside = await door.call("POST", "/v1/memories", {"content": "x", "user_id": "cid"}, key=token, headers=headers)
    await door.call("DELETE", f"/v1/members/{made.data['id']}")
    after = await asked(door, token, **headers)

    assert (inside.status, outside.status, after.status) == (202, 403, 403)


async def test_an_unknown_key_id_has_the_set_read_anew_but_not_again_and_again(
    door: DoorUnderTest, issuer: Issuer
) -> None:
    assert (await asked(door, issuer.token())).status == 200
    before = issuer.served

    for n in range(20):
        assert (await asked(door, issuer.token(headers={"kid": f"unknown-{n}"}))).status == 401

    assert issuer.served - before <= 1


async def test_a_shared_secret_takes_its_own_algorithm_alone(broker: NatsServer, issuer: Issuer, tmp_path: Any) -> None:
    auth = {**AUTH, "jwt_secret": SECRET, "jwt_user_claim": "sub"}
    async with open_door(broker, tmp_path, auth=auth) as door:
        claims = issuer.claims(sub="dora")
        good = signed_by_hand({"alg": "HS256"}, claims, SECRET.encode())
        wrong = [
            issuer.token(),
            signed_by_hand({"alg": "HS512"}, claims, SECRET.encode()),
            signed_by_hand({"alg": "HS256"}, claims, b"t" * 32),
            f"{part({'alg': 'none'})}.{part(claims)}.",
        ]

        own = await door.call("POST", "/v1/memories", {"content": "x"}, key=good)
        foreign = await door.call("POST", "/v1/memories", {"content": "x", "user_id": "bob"}, key=good)
        both = await asked(door, good, **{"X-API-Key": door.key})

        assert (own.status, foreign.status, both.status) == (202, 403, 400)
        wrong += [token for _, token in flipped(good, 40)]
        assert {(await asked(door, token)).status for token in wrong} == {401}


async def test_keys_count_beside_tokens_and_altered_ones_do_not(door: DoorUnderTest) -> None:
    key, chance = await door.new_key("acme"), random.Random(3)

    for place in chance.sample(range(9, len(key)), 30):
        flipped = "x" if key[place] != "x" else "y"
        assert (await asked(door, key[:place] + flipped + key[place + 1 :])).status == 401
    assert (await asked(door, key)).status == 200


async def test_a_bound_key_sees_its_own_jobs_alone(door: DoorUnderTest) -> None:
    ann, bob = await bound(door, "ann"), await bound(door, "bob")
    same = {"Idempotency-Key": "the-same"}

    mine = await door.call("POST", "/v1/memories", {"content": "x"}, key=ann, headers=same)
    theirs = await door.call("POST", "/v1/memories", {"content": "x"}, key=bob, headers=same)

    assert mine.data["id"] != theirs.data["id"]
    assert (await door.call("GET", f"/v1/jobs/{mine.data['job']}", key=ann)).status == 200
    assert (await door.call("GET", f"/v1/jobs/{mine.data['job']}", key=bob)).status == 404
    assert (await door.call("DELETE", f"/v1/jobs/{mine.data['job']}", key=bob)).status == 404
    assert (await door.call("POST", "/v1/graph/nodes", {"id": "person:Ann"}, key=ann)).status == 403


async def bound(door: DoorUnderTest, user: str) -> str:
    key = await door.new_key("acme")
    bucket = door.bus.bucket(KEYS)
    record = KeyRecord.model_validate_json(await bucket.get(str(key_id(key))) or b"")
    await bucket.put(str(key_id(key)), record.model_copy(update={"bounds": Bounds(user_ids=(user,))}).encode())
    async with asyncio.timeout(5.0):
        while (await door.call("GET", "/v1/memories", key=key, user_id="nobody")).status != 403:
            await asyncio.sleep(0.01)
    return key
