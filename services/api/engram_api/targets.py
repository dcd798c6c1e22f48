"""Where Prometheus finds the metrics of every process: its HTTP service discovery."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import urlsplit

from engram_contracts.questions import Pong


def targets(found: Sequence[Pong]) -> bytes:
    """One target for each process that says where its metrics are, with the service it runs."""
    known = sorted((pong.service, urlsplit(pong.metrics_url).netloc) for pong in found if pong.metrics_url)
    return json.dumps([{"targets": [address], "labels": {"service": service}} for service, address in known]).encode()
