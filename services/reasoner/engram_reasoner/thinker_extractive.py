"""The thinker that needs no model."""

from __future__ import annotations

from engram_reasoner.extractive import compose
from engram_reasoner.ports import Answer, Inquiry, Relay, unheard


class ExtractiveThinker:
    """Answers in the memories' own sentences. See `Thinker`."""

    async def answer(self, inquiry: Inquiry, relay: Relay = unheard) -> Answer:
        """See `Thinker.answer`. A model that is asked for cannot be had, and the answer says so."""
        text, citations = compose(inquiry.question, inquiry.context.sources)
        await relay(text)
        ignored = f"model: {inquiry.model[:80]!r} was ignored, no model is configured" if inquiry.model else None
        return Answer(text=text, mode="extractive", citations=citations, degraded=(ignored,) if ignored else ())
