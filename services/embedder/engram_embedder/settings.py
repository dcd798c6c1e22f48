"""Settings of the embedder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from engram_runtime.settings import Common, Section

Role = Literal["all", "work", "query"]


class EmbedderSettings(Section):
    """Which model embeds, and what this process does with it.

    `model`, `base_url`, `api_key` and `timeout_seconds` are for `openai`; `model`, `path` (a local directory) and
    `cache_dir` (where downloads are kept; by default in the data directory) for `fastembed`. `dimension` shortens
    the vectors where the model can (`static`, `openai`), and is checked elsewhere. `language` is the Snowball
    stemmer for sparse vectors, or `none`. With a heavy model, run one process with role `work` and one with
    `query`, so that a query never waits for a batch.
    """

    adapter: Literal["static", "fastembed", "openai"] = "static"
    model: str | None = None
    base_url: str = "https://api.openai.com/v1"
    api_key: SecretStr | None = None
    path: Path | None = None
    cache_dir: Path | None = None
    dimension: int | None = Field(default=None, ge=1, le=65_536)
    language: str = "english"
    role: Role = "all"
    timeout_seconds: float = Field(default=30.0, gt=0)


class Settings(Common):
    """What an embedder process knows."""

    embedder: EmbedderSettings = EmbedderSettings()
