"""A stream of an answer, whatever order the events of it come in."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import cast

from engram_api.lines import Outlet
from engram_api.talks import Ear, Heard, ThinkTalk
from engram_api.whereabouts import Whereabouts
from engram_contracts.events import Said, Thinking
from engram_contracts.facts import Thought
from engram_contracts.live import Token
from engram_contracts.messages import Message

NOW = datetime.now(UTC)
THOUGHT = Thought(command="c", accepted_at=NOW, at=NOW, question="Who?", answer="Juno.", mode="model")


class Overheard:
    """What is heard, in this order, and then nothing."""

    tenant, command = "acme", "c"

    def __init__(self, heard: Iterable[Heard]) -> None:
        self._heard = iter(heard)

    async def next(self, within: float) -> Heard | None:
        return next(self._heard, None)


class Told:
    """An outlet that keeps what it is told."""

    def __init__(self) -> None:
        self.frames: list[tuple[str, Message]] = []

    async def tell(self, event: str, data: Message, at: int | None = None) -> None:
        self.frames.append((event, data))


async def test_pieces_that_come_behind_the_answer_are_told_before_it() -> None:
    said = [Said(command="c", stream="s", number=n, text=text) for n, text in enumerate(("Ju", "no."))]
    said.append(Said(command="c", stream="s", number=2, text="", last=True))
    ear = Overheard([Thinking(thought=THOUGHT, stream="s", pieces=len(said)), *said])
    talk = ThinkTalk(cast(Ear, ear), cast(Whereabouts, None), job_id="j", question=THOUGHT.question, repeated=False)
    told = Told()

    await talk.play(cast(Outlet, told))

    assert [event for event, _ in told.frames] == ["accepted", "token", "token", "citations", "usage", "done"]
    assert "".join(data.text for _, data in told.frames if isinstance(data, Token)) == THOUGHT.answer
