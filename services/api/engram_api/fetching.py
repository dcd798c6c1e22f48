"""Reading from an address that somebody configured, without being led into the network this process lives in."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from engram_contracts.errors import Rejected, Unavailable

CLOSED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
        "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "::/127", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32",
        "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    )
)  # fmt: skip
"""Networks that are not the public internet, or that lead around it (IANA's special-purpose registries, and a cloud's
own resolver); `ipaddress.is_global` misses some of them."""


class Fetcher:
    """Reads from one address: https alone, public addresses alone unless `private`, no redirects, bounded in all."""

    def __init__(self, url: str, *, private: bool, limit: int = 256 * 1024, seconds: float = 5.0) -> None:
        self._url = checked_url(url, private=private)
        self._private = private
        self._limit = limit
        self._seconds = seconds

    async def fetch(self) -> bytes:
        """What lies there. Raises `Unavailable`, with the host and not the address, when it cannot be had."""
        where = urlsplit(self._url).hostname
        try:
            async with asyncio.timeout(self._seconds), self._session() as session:
                return await self._read(session)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise Unavailable(f"cannot read from {where!r}: {type(error).__name__}: {error}") from error

    async def _read(self, session: aiohttp.ClientSession) -> bytes:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        async with session.get(self._url, headers=headers, allow_redirects=False) as answer:
            if answer.status != 200:
                raise ValueError(f"answered {answer.status}; redirects are not followed")
            if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise ValueError("answered in an encoding that was not asked for")
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > self._limit:
                    raise ValueError(f"answered more than {self._limit} bytes")
            return bytes(body)

    def _session(self) -> aiohttp.ClientSession:
        resolver = ThreadedResolver() if self._private else PublicAddresses(ThreadedResolver())
        connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, force_close=True, limit=1)
        return aiohttp.ClientSession(connector=connector, auto_decompress=False, trust_env=False)


class PublicAddresses(AbstractResolver):
    """Names resolve to public addresses alone. The connection goes to what was looked at, and is not resolved again."""

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The host's addresses. Raises `OSError` where one of them is not public."""
        found = await self._resolver.resolve(host, port, family)
        _check(ipaddress.ip_address(each["host"].partition("%")[0]) for each in found)
        return found

    async def close(self) -> None:
        """Close what it resolves with."""
        await self._resolver.close()


def checked_url(url: str, *, private: bool) -> str:
    """The address, if it may be read from. Raises `Rejected`, which does not repeat it, where it may not.

    `private` allows http and addresses of one's own network; without it, https to public addresses alone.
    """
    parts = urlsplit(url)
    schemes = ("https", "http") if private else ("https",)
    if parts.scheme not in schemes or not parts.hostname or parts.username or parts.password:
        raise Rejected(f"an address must begin with {' or '.join(schemes)}, name a host, and hold no password")
    if not private:
        try:
            literal = ipaddress.ip_address(parts.hostname)
        except ValueError:
            return url
        try:
            _check([literal])
        except OSError as error:
            raise Rejected(str(error)) from error
    return url


def _check(addresses: Iterable[IPv4Address | IPv6Address]) -> None:
    for address in addresses:
        if any(address.version == network.version and address in network for network in CLOSED):
            raise OSError(f"{address} is not a public address")
