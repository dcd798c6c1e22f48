"""Messages from their bytes: what cannot be read is refused with the field that is wrong."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from engram_contracts.errors import Rejected


def decode(kind: type[Any], body: bytes) -> Any:
    """The message in `body`. Raises `Rejected` when it is none, or of a version this release does not know."""
    try:
        message = kind.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "body"
        raise Rejected(f"{kind.__name__}.{where}: {problem['msg']}", field=where) from error
    if message.v > kind.newest:
        raise Rejected(
            f"{kind.__name__} version {message.v} is newer than {kind.newest}; update this worker", field="v"
        )
    return message
