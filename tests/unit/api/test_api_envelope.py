import json

from engram_api.envelope import error_headers, failure, success
from engram_contracts.answers import Alive
from engram_contracts.errors import NotFound, Overloaded, RateLimited, Rejected, Unauthorized


def test_an_answer_stands_in_the_envelope() -> None:
    assert json.loads(success(Alive(), {"request_id": "r"})) == {
        "data": {"status": "alive"}, "meta": {"request_id": "r"}, "error": None,
    }  # fmt: skip


def test_an_error_stands_in_the_same_envelope() -> None:
    error = Rejected("limit: too big", field="limit", details={"errors": [1]})

    assert json.loads(failure(error, "r", as_problem=False)) == {
        "data": None,
        "meta": {"request_id": "r"},
        "error": {
            "code": "INVALID_REQUEST", "message": "limit: too big", "request_id": "r", "field": "limit",
            "details": {"errors": [1]},
        },
    }  # fmt: skip


def test_as_a_problem_it_also_has_the_members_of_the_rfc() -> None:
    told = json.loads(failure(NotFound("there is none"), "r", as_problem=True))

    assert (told["type"], told["title"]) == ("urn:engram:error:not-found", "Not Found")
    assert (told["status"], told["detail"], told["error"]["code"]) == (404, "there is none", "NOT_FOUND")


def test_what_may_be_tried_again_says_when() -> None:
    assert error_headers(RateLimited("slow down", retry_after=1.2)) == {"Retry-After": "2"}
    assert error_headers(Overloaded("full")) == {"Retry-After": "1"}
    assert error_headers(Rejected("no")) == {}
    assert "Bearer" in error_headers(Unauthorized("who?"))["WWW-Authenticate"]
