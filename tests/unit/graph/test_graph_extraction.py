"""What the rules find in sentences as people write them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from engram_graph.extraction import MOST, extract, seeds
from engram_graph.vocabulary import Known, Origin, Vocabulary

MONDAY = datetime(2023, 5, 8, 13, 56, tzinfo=UTC)


def vocabulary(*nodes: str, origin: Origin = "rule") -> Vocabulary:
    return Vocabulary([Known(key, node, origin) for key, node in enumerate(nodes, start=1)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hey Mel! Good to see you! How have you been?", ["name:Mel"]),
        ("I went to a LGBTQ support group yesterday and it was so powerful.", ["name:LGBTQ", "date:2023-05-07"]),
        ("Wow, that's cool, Caroline! What happened that was so awesome?", ["name:Caroline"]),
        ("A gift from my grandma in my home country, Sweden.", ["name:Sweden"]),
        ("We read it in New York City, near the Grand Canyon.", ["name:New York City", "name:Grand Canyon"]),
        ("I want to visit The Cliffs of Moher.", ["name:Cliffs of Moher"]),
        ("He likes the Lord of the Rings a lot", ["name:Lord of the Rings"]),
        ("She loves George R. R. Martin and J.K. Rowling.", ["name:George R. R. Martin", "name:J.K. Rowling"]),
        ("It was Dr. Smith who called.", ["name:Smith"]),
        ('I loved "Charlotte\'s Web" as a kid.', ["phrase:Charlotte's Web"]),
        ("Have you read “The Name of the Wind”?", ["phrase:The Name of the Wind"]),
        ("Ping @john_doe about #Release-2", ["handle:john_doe", "tag:release-2"]),
        ("Caroline's friend plays Bach and Mozart.", ["name:Bach", "name:Mozart"]),
        ("That's Caroline's Birthday Cake", ["name:Caroline", "name:Birthday Cake"]),
    ],
)
def test_names_quotations_and_marks_are_found(text: str, expected: list[str]) -> None:
    assert list(extract(text, vocabulary(), reference=MONDAY)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Thanks! It's been super busy here.",
        "Researching it was fun. Finally done!",
        "I'm keen on it, and I'd love to. Don't worry.",
        "THIS IS WHAT SHOUTING LOOKS LIKE OKAY",
        "We met on Saturday. May I come?",
        "",
        "...!?",
        "こんにちは世界",
    ],
)
def test_plain_words_are_no_names(text: str) -> None:
    assert extract(text, vocabulary(), reference=None) == ()


def test_the_head_of_a_sentence_counts_when_repeated_or_known() -> None:
    assert extract("Oliver ran.", vocabulary(), reference=None) == ()
    assert extract("Oliver ran. Oliver slept.", vocabulary(), reference=None) == ("name:Oliver",)
    assert extract("Oliver ran.", vocabulary("name:Oliver"), reference=None) == ("name:Oliver",)


def test_a_speaker_s_name_becomes_the_person() -> None:
    known = vocabulary("person:Will", "person:Caroline", "name:Caroline")

    assert extract("Thanks, caroline and Caroline!", known, reference=None) == ("person:Caroline",)
    assert extract("We saw Will there.", known, reference=None) == ("person:Will",)
    assert extract("Will you come? We will.", known, reference=None) == ()


def test_known_nodes_are_found_in_any_case_where_they_are_unmistakable() -> None:
    rule = vocabulary("name:Green Tea Club", "name:Chess")
    manual = vocabulary("project:chess", "place:Mel's Bar", origin="manual")

    assert extract("the green tea CLUB met for chess", rule, reference=None) == ("name:Green Tea Club",)
    assert extract("playing CHESS at mel’s bar", manual, reference=None) == ("project:chess", "place:Mel's Bar")


def test_tags_become_nodes_and_there_is_a_most() -> None:
    names = " and ".join(f"Name{chr(97 + n)}x" for n in range(26))

    found = extract(f"we saw {names}", vocabulary(), reference=None, tags=("Work",))

    assert len(found) == MOST
    assert extract("nothing", vocabulary(), reference=None, tags=("Work", " ")) == ("tag:work",)


def test_a_question_names_known_nodes_in_any_case() -> None:
    known = vocabulary("person:Caroline", "name:LGBTQ", "date:2023-05-07", "tag:support", "name:Will")

    found = seeds("when will caroline visit the lgbtq support group, on 7 May 2023?", known, now=MONDAY)

    assert [node.id for node in found] == ["person:Caroline", "name:LGBTQ", "tag:support", "date:2023-05-07"]
