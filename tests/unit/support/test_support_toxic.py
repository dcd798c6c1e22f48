"""The proxy breaks what it is told to break, and mends it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator

import pytest

from support.toxic import WELL, Ill, ToxicProxy, Toxin, toxic_proxy

HALVES = 0.5


@pytest.fixture
async def proxy() -> AsyncIterator[ToxicProxy]:
    """Before a server that answers every line with itself."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    with toxic_proxy(server.sockets[0].getsockname()[1], chance=itertools.repeat(HALVES)) as opened:
        yield opened
    server.close()


async def asked(proxy: ToxicProxy, *, within: float = 0.3) -> bytes | None:
    """What comes back for a line; nothing in time is `None`, a connection that ends is empty."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"hello\n")
        return await asyncio.wait_for(reader.readline(), within)
    except TimeoutError:
        return None
    except ConnectionError:
        return b""


async def test_without_a_toxin_everything_passes(proxy: ToxicProxy) -> None:
    assert await asked(proxy) == b"hello\n"


@pytest.mark.parametrize(("ill", "seen"), [("reset", b""), ("refuse", b""), ("black hole", None), ("half open", None)])
async def test_each_ill_does_what_it_says_until_it_is_cured(proxy: ToxicProxy, ill: Ill, seen: bytes | None) -> None:
    proxy.infect(Toxin(ill=ill))
    await until_ill(proxy)
    during = await asked(proxy)
    proxy.cure()
    await until_ill(proxy, wanted=False)
    after = await asked(proxy, within=5.0)

    assert during == seen
    assert after == b"hello\n"


async def test_latency_and_bandwidth_delay(proxy: ToxicProxy) -> None:
    proxy.infect(Toxin(latency=0.05, jitter=0.1, bandwidth=200.0))
    await until_ill(proxy)
    began = time.monotonic()

    answer = await asked(proxy, within=5.0)

    assert answer == b"hello\n"
    assert time.monotonic() - began >= 2 * (0.05 + HALVES * 0.1 + 6 / 200.0)


async def until_ill(proxy: ToxicProxy, *, wanted: bool = True) -> None:
    async with asyncio.timeout(5.0):
        while (proxy.toxin != WELL) is not wanted:
            await asyncio.sleep(0.001)
