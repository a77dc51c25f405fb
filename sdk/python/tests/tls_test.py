"""TLS is verified against the profile's CA, and nothing is sent to a hub that is not trusted."""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
from pathlib import Path
from typing import Callable

import pytest
from conftest import Hub
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hms_ess import ChangeEvent, HubUnreachable, NotConfigured, publish

EVENT = ChangeEvent("E-V1", 1, {})


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for 127.0.0.1 that is its own CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hub of the tests")])
    now = datetime.datetime.now(datetime.timezone.utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    ca, secret = tmp_path / "ca.pem", tmp_path / "key.pem"
    ca.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca, secret)
    return ca, context


def test_the_profiles_ca_is_trusted_for_its_hub(
    make_hub: Callable[..., Hub],
    certificate: tuple[Path, ssl.SSLContext],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ca, context = certificate
    hub = make_hub(context)
    profile = tmp_path / "profile.json"
    aliases = {"https://hub.sandbox.gov": hub.url}
    profile.write_text(json.dumps({"hub": hub.url, "token": "hms_t", "ca": str(ca), "aliases": aliases}))
    monkeypatch.setenv("HMS_ESS_PROFILE", str(profile))
    publish(EVENT, hub="https://hub.sandbox.gov")
    assert hub.asked[0].headers["authorization"] == "Bearer hms_t"


def test_an_unknown_certificate_is_refused_before_anything_is_sent(
    make_hub: Callable[..., Hub], certificate: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = make_hub(certificate[1])
    with pytest.raises(HubUnreachable, match="HMS_ESS_CA"):
        publish(EVENT, hub.url)
    assert not hub.asked
    monkeypatch.setenv("HMS_ESS_CA", str(certificate[0]))
    publish(EVENT, hub.url)


def test_a_ca_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HMS_ESS_CA", "/nowhere/ca.pem")
    with pytest.raises(NotConfigured, match="/nowhere/ca.pem"):
        publish(EVENT, "https://127.0.0.1:1")
