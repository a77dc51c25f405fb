"""One kept connection for each thread and hub, and retries that cannot publish twice: the id makes them safe."""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import ssl
import threading
import time
from typing import Any, Mapping, Optional
from urllib.parse import urlsplit

from ._errors import HubUnreachable, NotConfigured, refusal
from ._profile import Address, addresses

RETRIED = (429, 502, 503, 504)
ANSWER_BYTES_MAX = 64 << 20
ATTEMPTS_MAX = 6
DELAY_FIRST = 0.2
DELAY_MAX = 5.0
RETRY_AFTER_MAX = 30.0

_kept = threading.local()


def call(
    method: str,
    path: str,
    hub: Optional[str],
    *,
    body: Optional[bytes] = None,
    headers: Optional[Mapping[str, str]] = None,
    timeout: float = 30.0,
) -> Any:
    """Sends one request, again where that is safe and useful, and returns the answer's JSON."""
    hubs = addresses(hub)
    attempts = max(ATTEMPTS_MAX, len(hubs))
    failure: Exception = HubUnreachable("no attempt was made")
    for attempt in range(attempts):
        address = hubs[attempt % len(hubs)]
        # The first round asks each hub once without waiting; only then is there reason to back off.
        pause = 0.0 if attempt + 1 < len(hubs) else _back_off(attempt + 1 - len(hubs))
        try:
            status, found, content = _exchange(address, method, path, body, headers, timeout)
        except ssl.SSLCertVerificationError as error:
            raise HubUnreachable(
                f"the certificate of {address.url} is not trusted: {error.verify_message}",
                hint="set HMS_ESS_CA to the hub's CA, DIR/tls/ca.pem beside its data",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            text = str(error) or type(error).__name__
            hint = "is it running? `hms-ess serve` prints the address it listens on"
            failure = HubUnreachable(f"could not reach {address.url}: {text}", hint=hint)
            failure.__cause__ = error
        else:
            answer = _parsed(content)
            if 200 <= status < 300:
                return answer
            failure = refusal(status, answer if isinstance(answer, dict) else {})
            if status not in RETRIED:
                raise failure
            if pause:
                pause = max(pause, _retry_after(found))
        if pause and attempt + 1 < attempts:
            time.sleep(pause)
    raise failure


def _back_off(number: int) -> float:
    # Full jitter over half the span: a crowd of publishers does not come back in step.
    return min(DELAY_MAX, DELAY_FIRST * float(2**number)) * random.uniform(0.5, 1.0)


def _retry_after(found: Mapping[str, str]) -> float:
    text = found.get("retry-after", "")
    return min(RETRY_AFTER_MAX, float(text)) if text.isascii() and text.isdigit() else 0.0


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content) if content else None
    except ValueError:
        return None


def _exchange(
    address: Address,
    method: str,
    path: str,
    body: Optional[bytes],
    headers: Optional[Mapping[str, str]],
    timeout: float,
) -> tuple[int, dict[str, str], bytes]:
    sent = {"Accept": "application/json, application/problem+json", **(headers or {})}
    if body is not None:
        sent.setdefault("Content-Type", "application/json")
    if address.token:
        sent["Authorization"] = f"Bearer {address.token}"
    connection, is_kept = _connection(address, timeout)
    try:
        return _once(connection, method, path, body, sent)
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        # A kept connection that the hub closed meanwhile says nothing about the hub: once more on a new one.
        if not is_kept or isinstance(error, socket.timeout):
            raise
    connection, _ = _connection(address, timeout)
    try:
        return _once(connection, method, path, body, sent)
    except (OSError, http.client.HTTPException):
        connection.close()
        raise


def _once(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: Optional[bytes],
    headers: Mapping[str, str],
) -> tuple[int, dict[str, str], bytes]:
    connection.request(method, path, body=body, headers=dict(headers))
    response = connection.getresponse()
    content = response.read(ANSWER_BYTES_MAX + 1)
    if len(content) > ANSWER_BYTES_MAX:
        raise http.client.HTTPException("the answer is over the limit")
    return response.status, {name.lower(): value for name, value in response.getheaders()}, content


def _connection(address: Address, timeout: float) -> tuple[http.client.HTTPConnection, bool]:
    pool: dict[tuple[int, Address], http.client.HTTPConnection] = _kept.__dict__.setdefault("pool", {})
    # A forked child must not speak on its parent's connection, so the process is part of the key.
    key = (os.getpid(), address)
    connection = pool.get(key)
    if connection is None:
        connection = pool[key] = _new(address, timeout)
    is_kept = connection.sock is not None
    connection.timeout = timeout
    if connection.sock is not None:
        connection.sock.settimeout(timeout)
    return connection, is_kept


def _new(address: Address, timeout: float) -> http.client.HTTPConnection:
    parts = urlsplit(address.url)
    if parts.scheme == "http":
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        context = ssl.create_default_context(cafile=address.ca)
    except (OSError, ssl.SSLError) as error:
        raise NotConfigured(f"could not read the CA file {address.ca}: {error}", hint="check HMS_ESS_CA") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=timeout, context=context)
