"""Recovery, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from engram_contracts.recovery import (
    CancelReplay,
    DropDead,
    GroupDead,
    ListDead,
    ListReplays,
    Replay,
    ShowDead,
    StartReplay,
    StatusReplay,
)
from engram_contracts.topology import DEAD, DUE, REPLAY
from engram_recovery.browsing import Browser
from engram_recovery.graveyard import Graveyard
from engram_recovery.handlers import Handlers, unnoted, utc_now
from engram_recovery.metrics import counting
from engram_recovery.remains import clearing
from engram_recovery.replaying import Replayer
from engram_recovery.replays import Replays
from engram_recovery.settings import Settings
from engram_runtime.bus import Bus
from engram_runtime.service import Service, Taking
from engram_runtime.trail import note


@asynccontextmanager
async def open_service(settings: Settings, bus: Bus) -> AsyncIterator[Service]:
    """The running recovery. Several may run; each replay is in the hands of one."""
    graveyard, replays = Graveyard(bus), Replays(bus)
    browser = Browser(bus.archive(DEAD), most=settings.recovery.most_looked_at)
    replayer = Replayer(bus, graveyard, replays, now=utc_now)
    noting = partial(note, bus, writer="recovery") if settings.audit.enabled else unnoted
    handlers = Handlers(bus, browser, graveyard, replays, replayer, note=noting)
    how = settings.recovery
    async with counting(bus, every=how.count_seconds), clearing(bus, every=how.clear_seconds):
        yield Service(
            name="recovery",
            answers={
                ListDead: handlers.list_dead,
                GroupDead: handlers.group_dead,
                ShowDead: handlers.show_dead,
                StartReplay: handlers.start_replay,
                StatusReplay: handlers.status_replay,
                ListReplays: handlers.list_replays,
                CancelReplay: handlers.cancel_replay,
                DropDead: handlers.drop_dead,
            },
            takes=(Taking(consumer=REPLAY, handler=handlers.replay, commands=(Replay,)),),
            returns=(DUE,),
            checks={"dead letters": handlers.check},
            draining=replayer.stop,
        )
