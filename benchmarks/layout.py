"""Where memories go: twenty tenants of equal size, and a big one that holds half of everything past the first part."""

from __future__ import annotations

SMALL = tuple(f"bench-{number:02}" for number in range(20))
BIG = "bench-big"
BULK = 100
"""Memories in one bulk request, all of one tenant."""


def tenant_of(request: int, *, even: int) -> str:
    """The tenant of a bulk request: the first `even` go round the small tenants, of the others half to the big one."""
    if request >= even and request % 2:
        return BIG
    return SMALL[(request if request < even else request // 2) % len(SMALL)]


def tenants_of(requests: range, *, even: int) -> list[str]:
    """The tenants of these requests, in order."""
    return [tenant_of(request, even=even) for request in requests]
