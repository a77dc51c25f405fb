"""Where the hub is and who we are: argument, environment, then the profile that ``hms-ess serve`` wrote."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Sequence, Union
from urllib.parse import urlsplit

from ._errors import NotConfigured


# One address, several parted by commas, or a list of them.
Hub = Union[str, Sequence[str], None]


@dataclass(frozen=True)
class Address:
    """One hub to dial, and what to show it."""

    url: str
    token: Optional[str]
    ca: Optional[str]


def addresses(hub: Hub) -> list[Address]:
    """The hub's addresses as they were named, each once."""
    profile = _profile()
    given = hub if hub is None or isinstance(hub, str) else ",".join(str(one) for one in hub)
    named = given or os.environ.get("HMS_ESS_HUB") or profile.get("hub")
    parts = _parts(named)
    if not parts:
        raise NotConfigured(
            "no hub is named",
            hint="pass hub=\"https://...\", set HMS_ESS_HUB, or run `hms-ess serve`, which writes the profile",
        )
    aliases = profile.get("aliases")
    table = {_trim(k): _trim(v) for k, v in aliases.items()} if isinstance(aliases, dict) else {}
    homes = _parts(profile.get("hub"))
    found: list[Address] = []
    for part in parts:
        url = _checked(table.get(part, part))
        # The profile's token is for the profile's hub; no other hub may see it.
        ours = profile if url in homes else {}
        token = os.environ.get("HMS_ESS_TOKEN") or ours.get("token")
        ca = os.environ.get("HMS_ESS_CA") or ours.get("ca")
        found.append(Address(url, token, ca))
    return list(dict.fromkeys(found))


def _parts(named: object) -> list[str]:
    return [_trim(part) for part in named.split(",") if part.strip()] if isinstance(named, str) else []


def _trim(url: object) -> str:
    return str(url).strip().rstrip("/")


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0
        good = good and not (parts.username or parts.query or parts.fragment or parts.path)
    except ValueError:
        good = False
    if not good:
        raise NotConfigured(f"hub {url!r} is not an address", hint="write https://host or https://host:port")
    return url


def _profile() -> dict[str, Any]:
    named = os.environ.get("HMS_ESS_PROFILE")
    home = os.environ.get("XDG_CONFIG_HOME")
    path = Path(named) if named else (Path(home) if home else Path.home() / ".config") / "hms-ess" / "profile.json"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise NotConfigured(f"could not read the profile {path}: {error}", hint="set HMS_ESS_PROFILE") from error
    try:
        profile = json.loads(text)
    except ValueError as error:
        raise NotConfigured(f"the profile {path} is not JSON: {error}", hint="remove it, `hms-ess serve` writes it anew") from error
    return profile if isinstance(profile, dict) else {}
