"""Reading an issuer's keys leads nowhere it should not, and key sets give only keys of use."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from engram_api.fetching import Fetcher, PublicAddresses, checked_url
from engram_api.key_sets import COOLING_SECONDS, FRESH_SECONDS, USABLE_SECONDS, IssuerKeys
from engram_api.settings import AuthSettings
from engram_api.tokens import KeySet
from engram_contracts.errors import EngramError, Rejected, Unauthorized, Unavailable
from support.issuer import Issuer

ISSUER = Issuer()


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example/keys", "ftp://issuer.example", "https://", "https://me:pw@issuer.example/", "file:///etc",
        "https://127.0.0.1/", "https://[::1]/", "https://10.0.0.1/", "https://169.254.169.254/latest",
        "https://192.0.0.192/", "https://[::ffff:10.0.0.1]/", "https://[64:ff9b::7f00:1]/", "https://168.63.129.16/",
        "https://[2002:7f00:1::]/", "https://100.64.0.1/", "https://224.0.0.1/", "https://[fd00::1]/",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(url: str) -> None:
    with pytest.raises(Rejected):
        checked_url(url, private=False)


def test_a_public_address_is_taken_and_ones_own_where_that_is_allowed() -> None:
    assert checked_url("https://issuer.example/keys", private=False)
    assert checked_url("http://127.0.0.1:9/keys", private=True)


async def test_a_name_that_leads_to_a_private_address_is_not_followed() -> None:
    class Here:
        async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[dict[str, object]]:
            return [{"host": "93.184.216.34"}, {"host": "127.0.0.1"}]

        async def close(self) -> None: ...

    with pytest.raises(OSError, match=r"127\.0\.0\.1 is not a public address"):
        await PublicAddresses(Here()).resolve("issuer.example")  # type: ignore[arg-type]


async def test_an_answer_that_redirects_or_is_too_long_is_not_taken() -> None:
    async def answering(words: bytes) -> str:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(words)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            with pytest.raises(Unavailable) as refused:
                await Fetcher(f"http://127.0.0.1:{port}/", private=True, limit=100).fetch()
        return refused.value.message

    assert "302" in await answering(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
    assert "100 bytes" in await answering(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + b"x" * 999)


def test_a_key_set_gives_keys_for_signatures_alone() -> None:
    good = ISSUER.key_set()["keys"]
    small = Issuer(rsa_key=rsa.generate_private_key(65_537, 1_024)).key_set()["keys"][0]
    useless = [
        {**good[0], "kid": "enc", "use": "enc"}, {**good[0], "kid": "alg", "alg": "RS512"}, {**good[0], "kid": 7},
        {**small, "kid": "small"}, {"kty": "oct", "kid": "oct", "k": "eA"}, {"kty": "RSA", "kid": "half", "n": "AQ"},
    ]  # fmt: skip

    keys = KeySet.parse(json.dumps({"keys": [*good, *useless]}).encode())

    assert len(keys) == 2
    assert keys.get("RS256", "rsa-1") is not None and keys.get("ES256", "ec-1") is not None
    assert keys.get("ES256", "rsa-1") is None and keys.get("RS256", ["rsa-1"]) is None


async def test_keys_are_read_when_they_may_have_changed_and_kept_while_their_issuer_is_away() -> None:
    now, reads, away = 0.0, 0, False

    async def fetch() -> bytes:
        nonlocal reads
        reads += 1
        if away:
            raise Unavailable("away")
        return json.dumps(ISSUER.key_set()).encode()

    keys = IssuerKeys(fetch, clock=lambda: now)

    async def refusal(kid: str) -> EngramError | None:
        try:
            await keys.key("RS256", kid)
        except EngramError as error:
            return error
        return None

    assert await refusal("rsa-1") is None and reads == 1
    assert isinstance(await refusal("new"), Unauthorized) and reads == 1
    now = COOLING_SECONDS + 1
    assert isinstance(await refusal("new"), Unauthorized) and reads == 2
    away, now = True, now + FRESH_SECONDS + 1
    assert await refusal("rsa-1") is None
    await keys.close()
    now += USABLE_SECONDS
    assert isinstance(await refusal("rsa-1"), Unavailable)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"jwt_secret": "short"}, "shorter than 32 bytes"),
        ({"jwt_secret": "s" * 32}, "jwt_issuer and jwt_audience"),
        ({"jwt_secret": "s" * 32, "jwt_jwks_url": "https://issuer.example"}, "not both"),
    ],
)
def test_settings_that_would_take_tokens_of_anybody_are_refused(fields: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AuthSettings.model_validate(fields)
