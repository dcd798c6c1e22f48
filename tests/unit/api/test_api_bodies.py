import gzip
import json
import time
import zlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict

from engram_api.bodies import OneOrMany, decode, inflate, query
from engram_api.models import EdgeBody, MemoriesQuery, NewMemories, NodeBody, NoQuery, RecallBody, WaitQuery
from engram_contracts.errors import Rejected
from engram_contracts.memory import NewMemory

REMEMBER = OneOrMany(one=NewMemory, many=NewMemories, key="memories")


def refused(raw: bytes, body=REMEMBER) -> Rejected:
    with pytest.raises(Rejected) as caught:
        decode(body, raw)
    return caught.value


def nested(depth: int) -> bytes:
    return b'{"content":"a","metadata":{"deep":' + b"[" * depth + b"]" * depth + b"}}"


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"", "body"),
        (b"null", "body"),
        (b"[]", "body"),
        (b'"text"', "body"),
        (b"{", "body"),
        (b'{"content":"a"} {}', "body"),
        (b'{"content":"\xff"}', "body"),
        (b'{"content":"\\ud800"}', "body"),
        (b"\xef\xbb\xbf{}", "body"),
        (nested(150), "metadata.deep"),
        (nested(100_000), "body"),
        (b"[" * 100_000, "body"),
        (b'{"content":"a","content":"b"}', "body"),
        (b'{"content":"a","metadata":{"x":1,"x":2}}', "body"),
        (b'{"content":"a","metadata":{"x":NaN}}', "metadata.x"),
        (b'{"content":"a","importance":NaN}', "importance"),
        (b'{"content":"a","importance":1e999}', "importance"),
        (b'{"content":"a","importance":"0.5"}', "importance"),
        (b'{"content":"a","importance":1.5}', "importance"),
        (b'{"content":"a","metadata":{"x":' + b"9" * 6_000 + b"}}", "body"),
        (b"{}", "content"),
        (b'{"content":""}', "content"),
        (b'{"content":" \\n\\t "}', "content"),
        (b'{"content":12}', "content"),
        (b'{"content":null}', "content"),
        (json.dumps({"content": "a" * 10_001}).encode(), "content"),
        (b'{"content":"a","colour":"red"}', "colour"),
        (b'{"content":"a","id":"mine"}', "id"),
        (b'{"content":"a","tenant":"other"}', "tenant"),
        (b'{"content":"a","tags":"x"}', "tags"),
        (b'{"content":"a","tags":["x",1]}', "tags.1"),
        (b'{"content":"a","metadata":{"x":{"y":1}}}', "metadata.x"),
        (b'{"content":"a","occurred_at":"yesterday"}', "occurred_at"),
        (b'{"content":"a","occurred_at":1700000000}', "occurred_at"),
        (b'{"content":"a","occurred_at":"0001-01-01T00:00:00+14:00"}', "occurred_at"),
        (b'{"content":"a","user_id":"a\\u0000b"}', "user_id"),
        (b'{"memories":[]}', "memories"),
        (b'{"memories":{}}', "memories"),
        (b'{"memories":[{"content":"a"},{"content":""}]}', "memories.1.content"),
        (b'{"memories":[{"content":"a"},{"content":"b","x":1}]}', "memories.1.x"),
        (b'{"memories":[{"content":"a"}],"more":1}', "more"),
        (b'{"more":1,"memories":[{"content":"a"}]}', "more"),
        (json.dumps({"memories": [{"content": "a"}] * 1_001}).encode(), "memories"),
    ],
)
def test_bad_input_is_refused_with_the_field_that_is_wrong(raw: bytes, field: str) -> None:
    error = refused(raw)

    assert error.field == field
    assert error.http_status == 400


def test_all_wrong_fields_are_told_and_none_of_the_content() -> None:
    error = refused(b'{"memories":[{"content":"secret","importance":2},{"content":"","kind":"secret!"}]}')

    assert [problem["field"] for problem in error.details["errors"]] == [  # type: ignore[union-attr]
        "memories.0.importance", "memories.1.content", "memories.1.kind",
    ]  # fmt: skip
    assert "secret" not in error.message + str(error.details)


def test_one_and_many_are_told_apart_wherever_the_key_stands() -> None:
    assert isinstance(decode(REMEMBER, b'{"content":"a"}'), NewMemory)
    assert isinstance(decode(REMEMBER, b' { "memories" : [{"content":"a"}]}'), NewMemories)
    assert isinstance(decode(REMEMBER, b'{"\\u006demories":[{"content":"a"}]}'), NewMemories)


def test_content_of_exactly_the_limit_is_taken() -> None:
    assert decode(REMEMBER, json.dumps({"content": "é" * 10_000}).encode())


@pytest.mark.parametrize(
    ("body", "raw", "field"),
    [
        (RecallBody, b'{"query":"x","limit":0}', "limit"),
        (RecallBody, b'{"query":"x","limit":10.0}', "limit"),
        (RecallBody, b'{"query":"x","filters":{"tenant":"b"}}', "filters.tenant"),
        (RecallBody, b'{"query":"x","filters":{"kind":["a","B!"]}}', "filters.kind"),
        (NodeBody, b'{"id":"Ann"}', "id"),
        (NodeBody, b'{"id":"person:Ann","attributes":{"a":{}}}', "attributes.a"),
        (EdgeBody, b'{"source":"a:b","type":"knows","target":"c:d","weight":0}', "weight"),
        (EdgeBody, b'{"source":"a:b","type":"knows","target":"c:d","evidence":["x"]}', "evidence.0"),
        (
            EdgeBody,
            b'{"source":"a:b","type":"knows","target":"c:d","valid_from":"2026-02-01T00:00:00Z","valid_to":"2026-01-01T00:00:00Z"}',
            "valid_to",
        ),
    ],
)
def test_other_bodies_name_their_fields_too(body, raw: bytes, field: str) -> None:
    assert refused(raw, body).field == field


@given(st.binary(max_size=300))
def test_no_bytes_whatever_lead_to_anything_but_a_memory_or_a_refusal(raw: bytes) -> None:
    try:
        decode(REMEMBER, raw)
    except Rejected as error:
        assert error.field


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
    )
)
def test_no_json_whatever_leads_to_anything_but_a_memory_or_a_refusal(tree) -> None:
    try:
        decode(REMEMBER, json.dumps(tree).encode())
    except Rejected as error:
        assert error.field


def test_gzip_and_deflate_are_unpacked() -> None:
    assert inflate(gzip.compress(b"{}"), "gzip", 10) == b"{}"
    assert inflate(zlib.compress(b"{}"), "deflate", 10) == b"{}"
    assert inflate(b"{}", "identity", 10) == b"{}"


@pytest.mark.parametrize("encoding", ["br", "junk", "gzip, gzip", "x" * 500])
def test_other_encodings_are_not_supported(encoding: str) -> None:
    with pytest.raises(Rejected) as caught:
        inflate(b"{}", encoding, 10)

    assert caught.value.http_status == 415


@pytest.mark.parametrize("raw", [b"no gzip", gzip.compress(b"{}" * 50)[:-9]])
def test_broken_gzip_is_refused(raw: bytes) -> None:
    with pytest.raises(Rejected) as caught:
        inflate(raw, "gzip", 1_000)

    assert caught.value.http_status == 400


def test_a_gzip_bomb_is_not_unpacked_past_the_limit() -> None:
    with pytest.raises(Rejected) as caught:
        inflate(gzip.compress(b"0" * 50_000_000), "gzip", 1_000)

    assert caught.value.http_status == 413


@pytest.mark.parametrize(
    ("kind", "given", "field"),
    [
        (NoQuery, [("wait", "indexed")], "wait"),
        (WaitQuery, [("wait", "soon")], "wait"),
        (WaitQuery, [("timeout", "nan")], "timeout"),
        (WaitQuery, [("timeout", "-1")], "timeout"),
        (WaitQuery, [("wait", "done"), ("wait", "indexed")], "wait"),
        (MemoriesQuery, [("limit", "ten")], "limit"),
        (MemoriesQuery, [("limit", "1001")], "limit"),
        (MemoriesQuery, [("tenant", "other")], "tenant"),
        (MemoriesQuery, [("tags", "a"), ("tags", "")], "tags.1"),
        (MemoriesQuery, [("metadata", "x")], "metadata"),
        (MemoriesQuery, [("before", "soon")], "before"),
    ],
)
def test_a_bad_query_is_refused_with_the_parameter_that_is_wrong(kind, given, field: str) -> None:
    with pytest.raises(Rejected) as caught:
        query(kind, MultiDict(given))

    assert caught.value.field == field


def test_a_query_becomes_filters() -> None:
    given = MultiDict(
        [("tags", "a"), ("tags", "b"), ("kind", "fact"), ("limit", "5"), ("after", "2026-01-01T00:00:00Z")]
    )

    asked = query(MemoriesQuery, given)

    assert (asked.filters().tags, asked.filters().kind, asked.limit) == (("a", "b"), ("fact",), 5)
    assert asked.filters().after is not None and asked.filters().encode() == asked.filters().encode()


def test_filters_that_are_objects_are_read_from_json_in_a_query() -> None:
    given = MultiDict([
        ("ranges", '{"price": {"gte": 3}, "due": {"lt": "2026-05-01T00:00:00Z"}}'),
        ("none_of", '{"kind": "note"}'), ("none_of", '{"metadata": {"n": 1}}'),
    ])  # fmt: skip

    filters = query(MemoriesQuery, given).filters()

    assert filters.ranges["price"].bounds() == {"gte": 3.0}
    assert filters.ranges["due"].bounds() == {"lt": datetime(2026, 5, 1, tzinfo=UTC)}
    assert [each.kind for each in filters.none_of] == ["note", None]


@pytest.mark.parametrize(
    "ranges", ["{", "[1]", '{"n": {}}', '{"n": {"gte": 1, "lt": "2026-05-01"}}', '{"n": {"gte": true}}']
)
def test_ranges_that_are_none_are_refused(ranges: str) -> None:
    with pytest.raises(Rejected):
        query(MemoriesQuery, MultiDict([("ranges", ranges)]))


def test_ranges_are_read_from_a_body() -> None:
    body = decode(
        RecallBody, b'{"query": "x", "filters": {"ranges": {"n": {"gte": 3}, "d": {"gt": "2026-05-01T00:00:00Z"}}}}'
    )

    assert isinstance(body, RecallBody)
    assert body.filters.ranges["n"].gte == 3
    assert body.filters.ranges["d"].gt == datetime(2026, 5, 1, tzinfo=UTC)


def filled(one: str, separator: str = ",", *, before: str, after: str, size: int = 4 * 2**20) -> bytes:
    """A body of this size that repeats one thing."""
    return (before + separator.join([one] * ((size - 100) // (len(one) + 1))) + after).encode()


CROWDED = {
    "one name again and again": filled('"k":1', before='{"content":"x","metadata":{', after="}}"),
    "empty objects": filled("{}", before='{"memories":[', after="]}"),
    "empty lists": filled("[]", before='{"content":"x","metadata":{"a":[', after="]}}"),
    "numbers": filled("1", before='{"content":"x","metadata":{"a":[', after="]}}"),
    "strings": filled('"a"', before='{"content":"x","tags":[', after="]}"),
    "deep pairs": filled("[1,[2,3]]", before='{"content":"x","metadata":{"a":[', after="]}}"),
    "fields nobody knows": ("{" + ",".join(f'"k{n}":1' for n in range(300_000)) + "}").encode(),
    "broken off": filled('{"a":1}', before='{"memories":[', after=',{"content":"' + 'a\\"' * 1_000),
}


@pytest.mark.parametrize("name", CROWDED)
def test_a_body_of_more_values_than_are_looked_at_is_refused_unread(name: str):
    began = time.thread_time()
    error = refused(CROWDED[name])

    assert (error.http_status, error.field) == (413, "body")
    assert time.thread_time() - began < 0.25, "the event loop would be held"


def test_commas_in_texts_are_no_values():
    crowded = json.dumps("a, b; {[" * 1_200 + '\\"')
    raw = f'{{"memories":[{",".join([f"""{{"content":{crowded}}}"""] * 400)}]}}'.encode()

    assert raw.count(b",") > 400_000
    assert len(decode(REMEMBER, raw).memories) == 400


def test_of_many_problems_the_number_is_told():
    error = refused(("{" + ",".join(f'"k{n}":1' for n in range(9_000)) + "}").encode())

    assert (error.http_status, error.field) == (400, "body")
    assert error.message.startswith("9001 fields of the body are wrong")
