"""Recovery, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from engram_contracts.erasing import Erase, ListErasures, StartErasure, StatusErasure
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
from engram_contracts.topology import DEAD, DUE, ERASE, REPLAY
from engram_recovery.browsing import Browser
from engram_recovery.erasing import Eraser, Revoke
from engram_recovery.erasure_handlers import ErasureHandlers
from engram_recovery.erasures import Erasures
from engram_recovery.graveyard import Graveyard
from engram_recovery.handlers import Handlers, unnoted, utc_now
from engram_recovery.metrics import counting
from engram_recovery.remains import clearing
from engram_recovery.replaying import Replayer
from engram_recovery.replays import Replays
from engram_recovery.settings import Settings
from engram_recovery.signing import Signer
from engram_runtime.bus import Bus
from engram_runtime.credentials import Credentials
from engram_runtime.keys import load_signing_secret
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
    eraser = Eraser(bus, Erasures(bus), _signer(settings), revoke=_revoking(settings), now=utc_now)
    erasing = ErasureHandlers(bus, eraser, Erasures(bus), now=utc_now)

    def stop() -> None:
        replayer.stop()
        eraser.stop()

    async with (
        counting(bus, every=how.count_seconds),
        clearing(bus, every=how.clear_seconds, patience=how.unclaimed_seconds),
    ):
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
                StartErasure: erasing.start,
                StatusErasure: erasing.status,
                ListErasures: erasing.list,
            },
            takes=(
                Taking(consumer=REPLAY, handler=handlers.replay, commands=(Replay,)),
                Taking(consumer=ERASE, handler=erasing.erase, commands=(Erase,)),
            ),
            returns=(DUE,),
            checks={"dead letters": handlers.check},
            draining=stop,
        )


def _signer(settings: Settings) -> Signer:
    secret = settings.recovery.signing_secret
    return Signer(load_signing_secret(settings.data_dir, secret.get_secret_value() if secret else None))


def _revoking(settings: Settings) -> Revoke:
    """Takes back the credentials of a tenant on the broker that runs here, if one does."""
    credentials = Credentials(settings.data_dir / "nats")
    return lambda tenant: len(credentials.revoke(lambda credential: credential.tenant == tenant))
