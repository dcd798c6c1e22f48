"""Reports of erasures, signed with Ed25519 so that whoever has the public key can check them."""

from __future__ import annotations

import hashlib

from engram_contracts.erasing import Erasure, ErasureReport


class Signer:
    """Signs in the name of an installation. `secret` is any secret text of its own."""

    def __init__(self, secret: bytes) -> None:
        self._seed = hashlib.blake2b(secret, digest_size=32).digest()

    def sign(self, erasure: Erasure) -> ErasureReport:
        """The report of an erasure."""
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 (rarely needed, and megabytes)

        key = ed25519.Ed25519PrivateKey.from_private_bytes(self._seed)
        text = erasure.model_dump_json(exclude_none=True)
        return ErasureReport(
            text=text,
            signature=key.sign(text.encode()).hex(),
            public_key=key.public_key().public_bytes_raw().hex(),
        )


def is_genuine(report: ErasureReport, public_key: str) -> bool:
    """Whether a report was signed with the key that belongs to this public one (hex)."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 (rarely needed, and megabytes)
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 (the same)

    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(bytes.fromhex(report.signature), report.text.encode())
    except (InvalidSignature, ValueError):
        return False
    return True
