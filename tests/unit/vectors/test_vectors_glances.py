"""What is remembered of memories: never more than asked for, and nothing once it has changed."""

from __future__ import annotations

from engram_vectors.glances import Glances
from engram_vectors.looks import Look
from engram_vectors.points import head_of

ANN, BOB = head_of("acme", "ann"), head_of("acme", "bob")


def test_who_stands_at_a_place_is_known_once_it_was_settled() -> None:
    glances = Glances()

    glances.settle("acme", [7, 8], {ANN: Look(place=7)})

    assert glances.standing("acme", [7, 8, 9]) == ({ANN: Look(place=7)}, [9])
    assert glances.standing("other", [7]) == ({}, [7])


def test_a_memory_that_changes_is_looked_at_again_where_it_stood_and_where_it_arrives() -> None:
    glances = Glances()
    glances.settle("acme", [7, 8], {ANN: Look(place=7)})

    glances.change([ANN], [("acme", 8)])

    assert glances.standing("acme", [7, 8]) == ({}, [7, 8])
    assert glances.of({ANN}) == {}


def test_a_memory_that_moved_is_no_longer_where_it_stood() -> None:
    glances = Glances()
    glances.settle("acme", [7], {ANN: Look(place=7)})

    glances.keep({ANN: Look(place=9)})

    assert glances.standing("acme", [7]) == ({}, [7])


def test_no_more_than_the_most_are_remembered_and_the_latest_stay() -> None:
    glances = Glances(most=10)

    for place in range(1, 100):
        glances.settle("acme", [place], {head_of("acme", str(place)): Look(place=place)})

    found, unknown = glances.standing("acme", range(1, 100))
    assert 0 < len(found) <= 10
    assert head_of("acme", "99") in found
    assert len(found) + len(unknown) == 99
