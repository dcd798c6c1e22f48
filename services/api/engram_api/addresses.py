"""Who fails to log in again and again is not listened to for a while: a bound for each address, before any key is read.

An address has so many failures a minute; when they are used up, its requests are refused unread until time has given
some back. Nothing else counts, so many who share an address are not slowed down by each other's work.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

from engram_api.buckets import draw
from engram_contracts.control import Rate
from engram_contracts.errors import RateLimited

KNOWN = 10_000
"""Addresses that are remembered; beyond, the one that failed longest ago is forgotten."""


class Addresses:
    """Counts failures by address: a network of /64 for IPv6. With `loopback` off, this machine's own are not counted.

    A proxy that stands before the door is one address for all; it has to bound addresses itself.
    """

    def __init__(self, rate: Rate | None, *, loopback: bool, clock: Callable[[], float] = time.time) -> None:
        self._rate = rate
        self._loopback = loopback
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def check(self, address: str | None) -> None:
        """Raise `RateLimited` for an address whose failures are used up."""
        if not self._full_at or self._rate is None:
            return
        full_at = self._full_at.get(_network(address or ""))
        if full_at is None:
            return
        drawn = draw(full_at, self._clock(), self._rate, 1)
        if not drawn.tokens:
            raise RateLimited("too many failed logins from this address; wait", retry_after=drawn.wait)

    def failed(self, address: str | None) -> None:
        """Count a failure."""
        if self._rate is None or not address or (not self._loopback and _is_loopback(address)):
            return
        name = _network(address)
        drawn = draw(self._full_at.pop(name, 0.0), self._clock(), self._rate, 1)
        self._full_at[name] = drawn.full_at
        if len(self._full_at) > KNOWN:
            self._full_at.popitem(last=False)


def _network(address: str) -> str:
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False
