"""What the door tells of a request to who traces it: names, ids and numbers, never what was sent."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from multidict import MultiMapping

from engram_api.access import OPEN
from engram_api.routes import Operation
from engram_runtime.tracing import NOTHING, TRACEPARENT, Attributes, Step, entered

MEMORY_OPERATIONS: Mapping[str, str] = {
    "remember": "create_memory",
    "revise": "update_memory",
    "judge": "update_memory",
    "forget": "delete_memory",
    "recall": "search_memory",
    "context": "search_memory",
}
"""Operations of the door by the names that OpenTelemetry has for them (semantic conventions for generative AI)."""


def of_request(operation: Operation, headers: MultiMapping[str], request_id: str, correlation: str) -> Step:
    """The whole of a request; goes on with the caller's trace where it sends one. Probes are not traced."""
    if operation.permission in OPEN:
        return NOTHING

    def attributes() -> Attributes:
        memory = MEMORY_OPERATIONS.get(operation.name)
        return {
            "http.request.method": operation.method,
            "http.route": operation.path,
            "engram.operation": operation.name,
            "engram.request_id": request_id,
            "engram.correlation_id": correlation,
            **({"gen_ai.operation.name": memory, "gen_ai.provider.name": "engram"} if memory else {}),
        }

    return entered(f"{operation.method} {operation.path}", headers.get(TRACEPARENT), attributes)


def ended(step: Step, status: int, tenant: str | None) -> None:
    """Note how a request ended, and for whom it was."""
    step.set({"http.response.status_code": status, **({"engram.tenant": tenant} if tenant else {})})
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        step.fail(str(status))
