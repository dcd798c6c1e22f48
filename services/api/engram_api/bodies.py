"""From bytes to validated bodies and queries, with errors that name the field. Pure."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from multidict import MultiMapping
from pydantic import BaseModel, ValidationError

from engram_contracts.errors import Rejected

M = TypeVar("M", bound=BaseModel)

PLAIN = ("", "identity")
"""Content encodings that leave a body as it is."""

LISTED = 20
"""How many problems of one body are told."""

MOST_VALUES = 100_000
"""Values in one body. Each may be a problem of its own, and a million of them would hold everybody up for seconds."""

MOST_PROBLEMS = 2_000
"""Problems that are looked at one by one; of more, only the number is told."""

PIECE = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOrMany:
    """A body that is one thing, or an object whose only field `key` lists many of them."""

    one: type[BaseModel]
    many: type[BaseModel]
    key: str


Body = type[BaseModel] | OneOrMany


def inflate(raw: bytes, encoding: str, limit: int) -> bytes:
    """The body behind `Content-Encoding`, never more than `limit` bytes of it at a time.

    Raises `Rejected`: 415 for an encoding that is not gzip or deflate, 413 past the limit, 400 for broken data.
    """
    if encoding in PLAIN:
        return raw
    if encoding not in ("gzip", "deflate"):
        raise Rejected(
            f"Content-Encoding {encoding[:40]!r} is not supported; send gzip, deflate or no encoding",
            field="Content-Encoding",
            status=415,
        )
    wbits = 31 if encoding == "gzip" else 15
    try:
        if not _fits(raw, wbits, limit):
            raise Rejected(f"the {encoding} body ends early", field="Content-Encoding")
        return zlib.decompressobj(wbits=wbits).decompress(raw)
    except zlib.error as error:
        raise Rejected(f"the body is not valid {encoding}", field="Content-Encoding") from error


def _fits(raw: bytes, wbits: int, limit: int) -> bool:
    """Whether what is packed is whole. Nothing of it is kept, so that a bomb takes no room. Raises `Rejected`: 413."""
    stream, size, rest = zlib.decompressobj(wbits=wbits), 0, raw
    while not stream.eof:
        piece = stream.decompress(rest, PIECE)
        rest, size = stream.unconsumed_tail, size + len(piece)
        if size > limit:
            raise too_large(limit)
        if not piece and not rest:
            return stream.eof
    return True


def too_large(limit: int) -> Rejected:
    """The error for a body past its limit."""
    return Rejected(f"the body is larger than {limit} bytes; send less at a time", field="body", status=413)


def decode(body: Body, raw: bytes) -> BaseModel:
    """The validated body. Raises `Rejected`, naming the first wrong field, for anything else."""
    _check_values(raw)
    if isinstance(body, OneOrMany):
        return _one_or_many(body, raw)
    return _decode(body, raw)


def _check_values(raw: bytes) -> None:
    """Raise `Rejected` for more values than are looked at. Only what may hold so many is looked through for strings."""
    if len(raw) <= MOST_VALUES or raw.count(b",") <= MOST_VALUES:
        return
    strings = (raw.count(b'"') - raw.count(b'\\"')) / 2  # at least so many, and of two one is no name
    if strings / 2 > MOST_VALUES or _STRING.sub(b"", raw).count(b",") > MOST_VALUES:
        raise Rejected(f"the body holds more than {MOST_VALUES} values; send less at a time", field="body", status=413)


_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""A string, or what is left of one at the end of the body; it fits at every quotation mark, so it never looks twice."""


def _one_or_many(body: OneOrMany, raw: bytes) -> BaseModel:
    if re.match(rb'\s*\{\s*"%b"\s*:' % body.key.encode(), raw):
        return _decode(body.many, raw)
    try:
        return _decode(body.one, raw)
    except Rejected:
        if _names(raw, body.key):
            return _decode(body.many, raw)
        raise


def _names(raw: bytes, key: str) -> bool:
    """Whether the body is an object with this name in it, however it is written."""
    try:
        tree = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return isinstance(tree, dict) and key in tree


def _decode(kind: type[M], raw: bytes) -> M:
    try:
        decoded = kind.model_validate_json(raw, strict=True)
    except ValidationError as error:
        _explain(error, raw)
    _unambiguous(raw)
    return decoded


def _unambiguous(raw: bytes) -> None:
    """Refuse what JSON parsers read differently: a name given twice in one object, and NaN or Infinity."""
    try:
        _UNAMBIGUOUS.decode(raw.decode())
    except ValueError as error:
        raise Rejected(str(error), field="body") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice[:64]!r} is given twice in one object; send it once")


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


_UNAMBIGUOUS = json.JSONDecoder(object_pairs_hook=_without_repeats, parse_constant=_no_number)


def query(kind: type[M], given: MultiMapping[str]) -> M:
    """The validated query. A parameter may be repeated only where a list is taken."""
    values: dict[str, Any] = {}
    for name in given:
        every = given.getall(name)
        if len(every) > 1 and not _takes_list(kind, name):
            raise Rejected(f"the query parameter {name[:64]!r} is given {len(every)} times; send it once", field=name)
        values[name] = every if _takes_list(kind, name) else every[0]
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        _raise(error, values)


def _takes_list(kind: type[BaseModel], name: str) -> bool:
    field = kind.model_fields.get(name)
    return field is not None and "tuple[" in str(field.annotation)


def _explain(error: ValidationError, raw: bytes) -> NoReturn:
    if error.error_count() > MOST_PROBLEMS:
        raise Rejected(f"{error.error_count()} fields of the body are wrong; compare it with /docs", field="body")
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    if problems[0]["type"] == "json_invalid":
        raise Rejected(problems[0]["msg"], field="body") from error
    _raise(error, json.loads(raw))


def _raise(error: ValidationError, given: Any) -> NoReturn:
    told: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        place = _place(problem["loc"], given, missing=problem["type"] == "missing")
        told.setdefault(place, []).append(problem["msg"].removeprefix("Value error, "))
    problems = [{"field": place, "message": "; or: ".join(words)} for place, words in told.items()][:LISTED]
    first = problems[0]
    details: dict[str, object] = {"errors": problems} if len(problems) > 1 else {}
    raise Rejected(f"{first['field']}: {first['message']}", field=first["field"], details=details) from error


def _place(location: tuple[int | str, ...], given: Any, *, missing: bool) -> str:
    """The path of a field as the client sent it; parts that pydantic adds for its own branches are left out."""
    path: list[str] = []
    for number, part in enumerate(location):
        inside = _inside(given, part)
        if inside is not _ABSENT:
            given = inside
        elif not (missing and number == len(location) - 1):
            continue
        path.append(str(part)[:64])
    return ".".join(path) or "body"


_ABSENT = object()


def _inside(given: Any, part: int | str) -> Any:
    if isinstance(given, Mapping) and isinstance(part, str):
        return given.get(part, _ABSENT)
    if isinstance(given, list) and isinstance(part, int) and part < len(given):
        return given[part]
    return _ABSENT
