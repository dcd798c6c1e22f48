"""`python -m engram.preparing SECRETS VOLUME...`: what an installation in containers needs before its first start.

Secrets are made once and never changed; a repeat leaves what is there. Each volume gets a file, so that it is not
empty: a container engine fills an empty one from the next image that mounts it, owner and all.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from engram_runtime.credentials import own_account

USER = "engram"
SECRETS = ("nats_password", "pepper", "signing_secret", "qdrant_api_key", "grafana_password")
TAKEN = ".engram"
SECRET_BYTES = 32


def prepare(folder: Path, volumes: Sequence[Path]) -> list[str]:
    """Make what is missing; the names of the files that were made."""
    made = [name for name in SECRETS if _secret(folder, name)]
    password, key = (_read(folder, name) for name in ("nats_password", "qdrant_api_key"))
    made += _file(folder / "nats-accounts.conf", f"accounts {{\n{own_account(USER, password)}\n}}\n")
    made += _file(folder / "qdrant.yaml", f'service: {{api_key: "{key}"}}\n')
    for volume in volumes:
        (volume / TAKEN).touch(exist_ok=True)
    return made


def _secret(folder: Path, name: str) -> bool:
    return bool(_file(folder / name, secrets.token_urlsafe(SECRET_BYTES) + "\n"))


def _file(path: Path, text: str) -> list[str]:
    """Write a file that only its owner can read, where there is none; its name if it was written."""
    if path.exists():
        return []
    part = path.with_name(f".{path.name}.part")
    part.touch(mode=0o600)
    part.write_text(text)
    part.replace(path)
    return [path.name]


def _read(folder: Path, name: str) -> str:
    return (folder / name).read_text().strip()


if __name__ == "__main__":
    target, *others = (Path(argument) for argument in sys.argv[1:])
    sys.stdout.write("".join(f"made {name}\n" for name in prepare(target, others)))
