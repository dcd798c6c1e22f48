"""A log that came back shorter than what a store has applied of it, as after a power cut, or from a backup.

New facts take the numbers of the lost ones, so the number of a position says nothing about them. When the fact at a
position was appended does: what is left of the log was appended before or then, and what is new after.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import StreamInfo
from nats.js.errors import NotFoundError

from engram_contracts.errors import Unavailable

ANSWER_SECONDS = 5.0
IS_GONE = 10037
JUST_AFTER = timedelta(microseconds=1)


async def common_end(
    client: Client, jetstream: JetStreamContext, stream: str, *, position: int, appended: datetime | None
) -> int:
    """Up to where a log still is what a store has applied of it: its position, or less where the log was cut.

    `appended` is the time of the fact at the position. Raises `Unavailable` where the log ends before the position
    and its place cannot be told: the time is not known, or the log was begun anew since.
    """
    info = await jetstream.stream_info(stream)
    last = info.state.last_seq
    if position > last and (appended is None or _begun_after(info, appended)):
        raise Unavailable(
            f"{stream} was applied up to {position}, but ends at {last}: it was lost, or begun anew; "
            "`engram rebuild log` has it go on behind what the stores hold"
        )
    if appended is None or position < info.state.first_seq:
        return position
    later = await _first_from(client, stream, appended + JUST_AFTER)
    if later is not None and later <= position:
        return later - 1
    if later is None and last < position:
        return last
    return position if await _is_from(jetstream, stream, position, appended) else max(info.state.first_seq - 1, 0)


def _begun_after(info: StreamInfo, moment: datetime) -> bool:
    return info.created is not None and info.created > moment


async def _first_from(client: Client, stream: str, moment: datetime) -> int | None:
    """The first message that was appended at a moment or later; `None` without one."""
    wanted = {"start_time": moment.astimezone(UTC).isoformat().replace("+00:00", "Z"), "next_by_subj": ">"}
    subject = f"$JS.API.STREAM.MSG.GET.{stream}"
    said = json.loads((await client.request(subject, json.dumps(wanted).encode(), timeout=ANSWER_SECONDS)).data)
    if (problem := said.get("error")) is None:
        return int(said["message"]["seq"])
    if problem.get("err_code") != IS_GONE:
        raise Unavailable(f"{stream} cannot be read: {problem.get('description')}", retry_after=1.0)
    return None


async def _is_from(jetstream: JetStreamContext, stream: str, sequence: int, moment: datetime) -> bool:
    """Whether a message is of that time; one that was taken out of the log since says nothing against it.

    It is not where the clock of a new log is behind that of the one it took the place of.
    """
    try:
        found = await jetstream.get_msg(stream, seq=sequence)
    except NotFoundError:
        return True
    return found.time is None or abs(found.time - moment) <= JUST_AFTER
