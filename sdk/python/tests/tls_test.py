"""TLS is verified against the profile's CA, and nothing is sent to a hub that is not trusted."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Callable

import pytest
from conftest import Hub

from hms_ess import ChangeEvent, HubUnreachable, NotConfigured, publish

EVENT = ChangeEvent("E-V1", 1, {})


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
