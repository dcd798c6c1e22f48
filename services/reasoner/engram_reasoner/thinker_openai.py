"""The thinker that asks a chat model."""

from __future__ import annotations

from engram_contracts.errors import Internal
from engram_reasoner.citations import resolve
from engram_reasoner.ports import Answer, ChatModel, Inquiry, Relay, unheard
from engram_reasoner.prompt import conversation
from engram_reasoner.thinker_extractive import ExtractiveThinker


class OpenAIThinker:
    """Answers in a model's words, citing memories. See `Thinker`.

    Where nothing was recalled the model is not asked: it could only guess.
    """

    def __init__(self, chat: ChatModel) -> None:
        self._chat = chat
        self._without_model = ExtractiveThinker()

    async def answer(self, inquiry: Inquiry, relay: Relay = unheard) -> Answer:
        """See `Thinker.answer`."""
        sources = inquiry.context.sources
        if not sources:
            return await self._without_model.answer(inquiry, relay)
        completion = await self._chat.complete(conversation(inquiry), model=inquiry.model, relay=relay)
        text, citations = resolve(completion.text, sources)
        if not text:
            raise Internal("the model's answer was nothing but marks of memories it was not given")
        return Answer(
            text=text,
            mode="model",
            model=completion.model,
            citations=citations,
            use=completion.use,
            degraded=("model: the answer was cut at llm.max_output_tokens",) if completion.cut else (),
        )
