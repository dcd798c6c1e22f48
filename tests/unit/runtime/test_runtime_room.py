"""Bounds of streams and buckets on disks of any size."""

from __future__ import annotations

import pytest

from engram_contracts.topology import BUCKETS, LOG, STREAMS, WORK, MiB
from engram_runtime.provision import share_of, shrunk

DECLARED = (*STREAMS, *BUCKETS)


@pytest.mark.parametrize("room", [None, 2**40])
def test_where_there_is_room_bounds_are_as_declared(room: int | None) -> None:
    assert [shrunk(each, share_of(room)) for each in DECLARED] == list(DECLARED)


@pytest.mark.parametrize("room", [256 * MiB, 1_024 * MiB, 4_096 * MiB])
def test_on_a_small_disk_they_reserve_half_of_it_together(room: int) -> None:
    bounds = [shrunk(each, share_of(room)).max_bytes for each in DECLARED]

    assert 0.49 * room < sum(bound for bound in bounds if bound > 0) <= 0.5 * room
    assert shrunk(WORK, share_of(room)).max_bytes < WORK.max_bytes
    assert shrunk(LOG, share_of(room)) == LOG
