"""When a bucket that is watched says that everything it held was told, in whatever order the client says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from nats.js import JetStreamContext

from engram_contracts.topology import DATA_KEYS
from engram_runtime.nats_bus import NatsKeyValue

KEPT = SimpleNamespace(key="acme", value=b"1", operation=None, delta=0)
FIRST = SimpleNamespace(key="birch", value=b"2", operation=None, delta=1)
GONE = SimpleNamespace(key="acme", value=b"", operation="DEL", delta=0)


class Watcher:
    """Says what nats-py says, of a consumer that was sent so many messages."""

    def __init__(self, said: Sequence[Any], sent: int) -> None:
        self._said = said
        told = SimpleNamespace(num_pending=0, delivered=SimpleNamespace(consumer_seq=sent))
        self._sub = SimpleNamespace(consumer_info=lambda: _given(told))

    async def __aiter__(self) -> AsyncIterator[Any]:
        for each in self._said:
            yield each

    async def stop(self) -> None:
        pass


async def _given(value: Any) -> Any:
    return value


class Watched(NatsKeyValue):
    """A bucket with such a watcher."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__(cast(JetStreamContext, None), DATA_KEYS)
        self._watcher = watcher

    async def _open(self) -> Any:
        return SimpleNamespace(watchall=lambda: _given(self._watcher))


@pytest.mark.parametrize(
    ("said", "sent", "told"),
    [
        ([None], 0, [None]),
        ([None, KEPT, GONE], 0, [None, ("acme", b"1"), ("acme", None)]),
        ([KEPT, None], 1, [("acme", b"1"), None]),
        ([FIRST, KEPT, None, GONE], 2, [("birch", b"2"), ("acme", b"1"), None, ("acme", None)]),
        ([None, FIRST, KEPT], 2, [("birch", b"2"), ("acme", b"1"), None]),
        ([None, GONE], 1, [("acme", None), None]),
    ],
    ids=["empty", "empty at first", "one", "several", "said too early", "only what is gone, said too early"],
)
async def test_all_is_told_once_it_was(said: list[Any], sent: int, told: list[Any]) -> None:
    assert [each async for each in Watched(Watcher(said, sent)).watch()] == told
