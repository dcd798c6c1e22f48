"""Browsers and encryption: which pages may read, what each answer carries, and TLS."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from engram.trust import trusting
from engram_api.listening import listening
from engram_api.protecting import protect
from engram_api.settings import ServeSettings
from engram_contracts.errors import Rejected
from support.servers import free_port

HERE, ELSEWHERE = "https://app.example.com", "https://evil.example.com"
ASKED = {"Origin": HERE, "Access-Control-Request-Method": "POST"}


@contextlib.asynccontextmanager
async def serving(**how: object) -> AsyncIterator[int]:
    """A door's outside, around a page that says hello; its port."""
    settings = ServeSettings.model_validate({"port": free_port(), **how})
    app = web.Application()

    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    app.router.add_get("/", hello)
    protect(app, settings)
    async with listening(app, settings):
        yield settings.port


def certificate(folder: Path) -> dict[str, Path]:
    """A certificate that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "engram")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(7).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    files = {"tls_certificate": folder / "cert.pem", "tls_key": folder / "key.pem"}
    files["tls_certificate"].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    encoded = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    files["tls_key"].write_bytes(encoded)
    return files


async def test_pages_of_other_origins_read_nothing_unless_they_are_named():
    async with serving() as closed, serving(cors_origins=HERE) as named, aiohttp.ClientSession() as session:
        for port, origin, allowed in ((closed, HERE, None), (named, ELSEWHERE, None), (named, HERE, HERE)):
            async with session.get(f"http://127.0.0.1:{port}/", headers={"Origin": origin}) as answer:
                assert answer.headers.get("Access-Control-Allow-Origin") == allowed
        async with session.options(f"http://127.0.0.1:{named}/", headers=ASKED) as asked:
            assert (asked.status, asked.headers["Access-Control-Allow-Origin"]) == (204, HERE)
            assert "Authorization" in asked.headers["Access-Control-Allow-Headers"]
        async with session.options(f"http://127.0.0.1:{closed}/", headers=ASKED) as refused:
            assert refused.status == 405


async def test_with_a_certificate_the_door_speaks_tls_alone_and_says_so_to_browsers(tmp_path):
    files = certificate(tmp_path)
    async with serving(**files) as port:
        trusted = aiohttp.TCPConnector(ssl=trusting(files["tls_certificate"]))
        async with aiohttp.ClientSession(connector=trusted) as session:
            async with session.get(f"https://127.0.0.1:{port}/") as answer:
                assert answer.headers["Strict-Transport-Security"].startswith("max-age=")
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"http://127.0.0.1:{port}/")


async def test_what_is_no_certificate_stops_the_start(tmp_path):
    (tmp_path / "cert.pem").write_text("nothing")

    with pytest.raises(Rejected, match="ENGRAM_SERVE_TLS_CERTIFICATE"):
        async with serving(tls_certificate=tmp_path / "cert.pem"):
            pass


async def test_without_a_certificate_nothing_is_said_of_encryption():
    async with (
        serving() as port,
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/") as answer,
    ):
        assert "Strict-Transport-Security" not in answer.headers
