"""One running Engram for all that look at its contracts from outside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.system import System, embedded_system


@pytest.fixture(scope="session")
def shared_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """It is started by the first who asks. Use a tenant of your own, and leave it running."""
    with embedded_system(tmp_path_factory.mktemp("shared")) as running:
        yield running
