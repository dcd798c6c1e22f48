"""Reading files: every format, stable keys, errors that name the place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram.demo import CONVERSATION
from engram.reading import read
from engram_contracts.errors import Rejected
from engram_contracts.memory import MAX_CONTENT, NewMemory

LINES, TREE, TEXT, MARKDOWN = Path("chat.jsonl"), Path("chat.json"), Path("notes.txt"), Path("notes.md")


def contents(path: Path, text: str) -> list[str]:
    return [record["content"] for record in read(path, text)]


def keys(path: Path, text: str) -> list[str]:
    return [record["key"] for record in read(path, text)]


def lines(*values: object) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def test_a_text_becomes_one_memory_for_each_paragraph():
    assert contents(TEXT, "one\ntwo\n\n\n  three  \n") == ["one\ntwo", "  three"]


def test_a_markdown_paragraph_keeps_its_heading():
    found = read(MARKDOWN, "before\n\n# Kiln #\nIt trips the fuse.\n\n- cups\n- bowls\n")

    assert [record["content"] for record in found] == ["before", "Kiln\nIt trips the fuse.", "Kiln\n- cups\n- bowls"]
    assert found[1]["metadata"] == {"heading": "Kiln"}
    assert found[1]["source"] == "notes.md"


def test_a_fenced_block_stays_whole_and_holds_no_headings():
    fence = "```\n# a comment\n\nx = 1\n```"

    assert contents(MARKDOWN, f"# Code\n\n{fence}\n\nafter") == [f"Code\n{fence}", "Code\nafter"]


def test_a_memory_that_is_too_long_is_cut_between_words_and_loses_none():
    text = "word " * 5_000

    pieces = contents(TEXT, text)

    assert all(len(piece) <= MAX_CONTENT for piece in pieces)
    assert " ".join(pieces).split() == text.split()


def test_lines_of_memories_are_taken_as_they_are():
    memory = {"content": "Joel is allergic to walnuts.", "kind": "fact", "tags": ["health"], "importance": 0.9}

    (found,) = read(LINES, lines(memory))

    assert {name: found[name] for name in memory} == memory


def test_a_key_in_the_file_is_kept():
    assert keys(LINES, lines({"content": "a", "key": "mine"})) == ["mine"]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "name": "Ann", "content": "hello", "created_at": "2026-03-01T09:00:00+01:00"},
        {"speaker": "Ann", "text": "hello", "time": "2026-03-01T08:00:00Z"},
        {"from": "Ann", "message": "hello", "timestamp": 1772352000},
        {"author": "Ann", "body": "hello", "ts": "1772352000", "reactions": ["+1"]},
    ],
)
def test_chat_messages_of_many_shapes_say_who_what_and_when(message):
    (found,) = read(LINES, lines(message))

    assert (found["speaker"], found["content"], found["kind"]) == ("Ann", "hello", "episode")
    assert found["occurred_at"] == "2026-03-01T08:00:00Z"
    assert found["session_id"] == "chat"


def test_json_holds_a_list_or_messages_or_sessions():
    message = {"speaker": "Ann", "text": "hello"}
    sessions = {"sessions": [{"id": "s1", "date": "2026-03-01", "messages": [message]}, {"messages": [message]}]}

    flat = read(TREE, json.dumps([message]))
    wrapped = read(TREE, json.dumps({"messages": [message]}))
    first, second = read(TREE, json.dumps(sessions))

    assert flat == wrapped
    assert (first["session_id"], first["occurred_at"]) == ("s1", "2026-03-01T00:00:00Z")
    assert (second["session_id"], "occurred_at" in second) == ("chat-2", False)


def test_the_same_words_twice_are_two_memories():
    first, second = keys(LINES, lines({"speaker": "Ann", "text": "yes"}, {"speaker": "Ann", "text": "yes"}))

    assert first != second


def test_a_separator_that_only_unicode_knows_ends_no_line():
    assert contents(LINES, '{"text": "one\u2028two"}\n') == ["one\u2028two"]


@pytest.mark.parametrize(
    ("path", "text", "named"),
    [
        (LINES, lines({"text": "fine"}) + "{", "chat.jsonl:2: not valid JSON"),
        (LINES, lines({"text": "fine"}, [1]), "chat.jsonl:2: expected an object, found list"),
        (LINES, lines({"speaker": "Ann"}), "chat.jsonl:1: no text found"),
        (LINES, lines({"text": " "}), "chat.jsonl:1: no text found"),
        (LINES, lines({"content": "x", "tags": [], "colour": 1}), "chat.jsonl:1: colour: "),
        (LINES, lines({"content": "x", "importance": 4}), "chat.jsonl:1: importance: "),
        (LINES, lines({"text": "x", "time": "last week"}), "chat.jsonl:1: occurred_at: "),
        (LINES, lines({"text": "x", "speaker": {"id": 1}}), "chat.jsonl:1: speaker: "),
        (LINES, "[" * 100_000, "chat.jsonl:1: n"),
        (TREE, '{"turns": []}', "chat.json: expected a list"),
        (TREE, '{"messages": 3}', "chat.json: expected a list"),
        (TREE, '{"sessions": [3]}', "chat.json, session 1: expected an object"),
        (TREE, '{"sessions": [{"messages": ["x"]}]}', "chat.json, session 1, message 1: expected an object, found str"),
        (TREE, '[{"text": "x"}, {}]', "chat.json, message 2: no text found"),
        (Path("song.mp3"), "", "song.mp3: cannot read '.mp3'; use .txt"),
        (Path("song"), "", "song: cannot read 'a file without ending'"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(path, text, named):
    with pytest.raises(Rejected) as caught:
        read(path, text)

    assert caught.value.message.startswith(named)


words = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=60)
message = st.fixed_dictionaries(
    {"text": words.filter(str.strip)},
    optional={"speaker": st.sampled_from(["Ann", "Bob"]), "time": st.just("2026-03-01T08:00:00Z")},
)


@given(st.lists(message, max_size=12), st.lists(message, max_size=4))
def test_reading_lines_again_gives_the_same_keys_and_a_longer_file_keeps_them(before, more):
    text = lines(*before)

    first, again, longer = keys(LINES, text), keys(LINES, text), keys(LINES, text + lines(*more))

    assert first == again == longer[: len(first)]
    assert len(set(longer)) == len(before) + len(more)


@given(st.sampled_from([TEXT, MARKDOWN]), st.lists(words, max_size=8), words)
def test_reading_a_text_again_gives_the_same_keys_and_a_new_paragraph_keeps_them(path, paragraphs, more):
    text = "\n\n".join(paragraphs).replace("```", "").replace("~~~", "")

    first, again, longer = keys(path, text), keys(path, text), keys(path, f"{text}\n\n{more}")

    assert first == again == longer[: len(first)]


@given(st.sampled_from([TEXT, MARKDOWN]), st.text(max_size=400))
def test_whatever_text_is_read_the_door_would_take_it(path, text):
    for record in read(path, text):
        NewMemory.model_validate(record)


def test_the_shipped_conversation_is_five_sessions_of_three_people():
    found = read(CONVERSATION, CONVERSATION.read_text())

    assert len({record["session_id"] for record in found}) == 5
    assert {record["speaker"] for record in found} == {"Mara", "Joel", "Ines"}
    assert all("occurred_at" in record for record in found)
    assert len({record["key"] for record in found}) == len(found) > 100
