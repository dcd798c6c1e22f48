"""`engram serve`: settings, the supervisor, and the first key, shown once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engram.provisioning import FIRST_KEY
from engram.settings import Settings
from engram.supervisor import Supervisor
from engram_runtime.settings import load


def serve(flags: Mapping[str, Any], config: Path | None, tell: Callable[[str], None]) -> None:
    """Run until SIGTERM or SIGINT."""
    if config is not None:
        os.environ["ENGRAM_CONFIG"] = str(config)
    settings = load(Settings, flags=flags, environ=os.environ, config=config)
    key_file = settings.data_dir / FIRST_KEY

    def told(line: str) -> None:
        tell(line)
        if key_file.exists():
            tell(f"admin key of tenant default (shown once; also in {settings.data_dir / 'admin.key'}):")
            tell(key_file.read_text())
            key_file.unlink()

    tell(f"starting; data and logs in {settings.data_dir}")
    Supervisor(settings, told).run()
