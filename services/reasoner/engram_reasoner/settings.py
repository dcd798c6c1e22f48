"""What can be set about thinking: the model, where there is one, and how much at once."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from engram_runtime.settings import Common, Section


def _http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("give the address up to and including the version, like http://127.0.0.1:11434/v1")
    return text.rstrip("/")


class LlmSettings(Section):
    """A language model behind any OpenAI-compatible address. Without `base_url` and `model`, answers are extractive.

    `first_token_seconds` bounds the wait for an answer to begin, `timeout_seconds` the whole of it. `context_tokens`
    is what memories may take of the prompt. `temperature` is sent only where it is set: some models refuse it.
    `prompt_price` and `completion_price` are of a million tokens; where both are set, answers tell what they cost.
    """

    base_url: Annotated[str, AfterValidator(_http_url)] | None = None
    model: str | None = Field(default=None, min_length=1)
    api_key: SecretStr | None = None
    timeout_seconds: float = Field(default=120.0, gt=0)
    first_token_seconds: float = Field(default=30.0, gt=0)
    max_output_tokens: int = Field(default=1_024, ge=16, le=32_768)
    temperature: float | None = Field(default=None, ge=0, le=2)
    context_tokens: int = Field(default=4_000, ge=256)
    prompt_price: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    completion_price: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    @property
    def configured(self) -> bool:
        """Whether there is a model to ask."""
        return self.base_url is not None and self.model is not None

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """What so many tokens cost, or `None` where prices are not set."""
        if self.prompt_price is None or self.completion_price is None:
            return None
        return round((prompt_tokens * self.prompt_price + completion_tokens * self.completion_price) / 1e6, 9)


class ReasonerSettings(Section):
    """`concurrency` bounds model calls under way in one process. `extract` has the model find relations in memories.

    Relations are looked for by one process at a time: switch `extract` on for one of several reasoners.
    """

    concurrency: int = Field(default=8, ge=1, le=256)
    extract: bool = False


class Settings(Common):
    """All settings of the reasoner."""

    llm: LlmSettings = LlmSettings()
    reasoner: ReasonerSettings = ReasonerSettings()
