"""Trust in the door of this machine, which is known by its certificate and not by a name."""

from __future__ import annotations

import ssl
from pathlib import Path


def trusting(certificate: Path) -> ssl.SSLContext:
    """A context that takes this certificate alone, or one that it vouches for, under whatever name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cafile=certificate)
    return context
