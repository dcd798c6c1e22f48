"""How every command of `engram` ends: JSON or for people, one line for an error, an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import IO, Annotated, Any, Protocol, TypeVar

import typer

from engram_contracts.errors import EngramError, Rejected

T = TypeVar("T")

EXIT_USAGE, EXIT_FAILED, EXIT_AWAY = 2, 1, 3
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def complete(work: Callable[[], Awaitable[T]]) -> T:
    """What the work comes to; ends the command as `guarded` does."""

    async def awaited() -> T:
        return await work()

    return guarded(lambda: asyncio.run(awaited()))


def guarded(work: Callable[[], T]) -> T:
    """One line for an error, and an exit code: 2 for bad input, 3 when Engram is away, 1 for the rest."""
    try:
        return work()
    except EngramError as error:
        typer.echo(f"engram: {error.field + ': ' if error.field else ''}{error.message}", err=True)
        codes = {"INVALID_REQUEST": EXIT_USAGE, "UNAVAILABLE": EXIT_AWAY}
        raise typer.Exit(codes.get(error.code, EXIT_FAILED)) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


class Tell(Protocol):
    """Says a line; `about` is what of it a program may want."""

    def __call__(self, line: str, **about: str) -> None:
        """Say it."""


def teller(as_json: bool) -> Tell:
    """Says one thing after the other: a line for people beside the output, or a line of JSON as the output."""

    def tell(line: str, **about: str) -> None:
        if as_json:
            typer.echo(json.dumps({"message": line, **about}, ensure_ascii=False))
        else:
            typer.echo(f"engram: {line}", err=True)

    return tell


@contextlib.contextmanager
def new_file(file: Path) -> Iterator[IO[str]]:
    """A new file, readable by its owner alone. Raises `Rejected` where there is one, or it cannot be made."""
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise Rejected(f"cannot write {str(file)!r}: {error.strerror}; name a file that is not there yet") from error
    with os.fdopen(handle, "w") as out:
        yield out


def output(as_json: bool, data: Any, show: Callable[[Any], None]) -> None:
    """Print the data: as JSON, or as `show` does with the module of views."""
    if as_json:
        typer.echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))
        return
    from engram import showing  # noqa: PLC0415 (rich is not needed for JSON)

    show(showing)
