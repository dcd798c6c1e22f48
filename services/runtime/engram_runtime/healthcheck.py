"""`python -m engram_runtime.healthcheck`: exits 0 when the service of this container is ready, else 1 with the reason.

It asks the health page on the loopback, at `ENGRAM_HOST_HEALTH_PORT`, and imports nothing that takes time.
"""

from __future__ import annotations

import http.client
import os
import sys

SECONDS = 3.0


def trouble(port: int) -> str | None:
    """Why the service on this port is not ready, or `None` when it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        return None if answer.status == http.HTTPStatus.OK else answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(trouble(int(os.environ["ENGRAM_HOST_HEALTH_PORT"])))
