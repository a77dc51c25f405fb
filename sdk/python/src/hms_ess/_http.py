"""One kept connection for each thread and hub. Retries, here and at the next address, cannot publish twice: ids see to it."""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Any, Mapping, Optional
from urllib.parse import urlsplit

from ._errors import HmsEssError, HubUnreachable, NotConfigured, Refused, refusal
from ._profile import Address, Hub, addresses
from ._route import note_answer, note_failure, order

# The hub is too busy, stops, or a balancer finds none: another address may do.
PASSED_ON = (502, 503, 504)
# Whoever asks too often asks too often at every address.
TOO_MANY = 429
ANSWER_BYTES_MAX = 64 << 20
ROUNDS_MAX = 6
DELAY_FIRST = 0.2
DELAY_MAX = 5.0
RETRY_AFTER_MAX = 30.0
# An address that hangs has no more than this while there is another one to ask.
CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 10.0

_kept = threading.local()


@dataclass(frozen=True)
class _Request:
    method: str
    path: str
    body: Optional[bytes]
    headers: Mapping[str, str]
    timeout: float
    wait: float


class _Missed(Exception):
    """One address did not do it; another one may, or the same one later."""

    def __init__(self, why: HmsEssError, reason: str, *, retry_after: float = 0.0, is_trusted: bool = True) -> None:
        super().__init__(reason)
        self.why = why
        self.reason = reason
        self.retry_after = retry_after
        self.is_trusted = is_trusted

    @property
    def is_meant_for_us(self) -> bool:
        return isinstance(self.why, Refused) and self.why.status == TOO_MANY


def call(
    method: str,
    path: str,
    hub: Hub,
    *,
    body: Optional[bytes] = None,
    headers: Optional[Mapping[str, str]] = None,
    timeout: float = 30.0,
    wait: float = 0.0,
) -> Any:
    """Sends one request, again and elsewhere where that is useful, and returns the answer's JSON.

    ``wait`` is how long the hub was asked to wait with its answer, ``timeout`` how long it may take besides.
    """
    request = _Request(method, path, body, headers or {}, timeout, wait)
    hubs = addresses(hub)
    missed: dict[Address, _Missed] = {}
    for number in range(ROUNDS_MAX):
        waits: list[float] = []
        asked = order(hubs, time.monotonic())
        for address in asked:
            try:
                return _ask(address, request, is_last=address is asked[-1])
            except _Missed as miss:
                missed[address] = miss
                if miss.is_meant_for_us:
                    waits = [miss.retry_after]
                    break
                waits.append(miss.retry_after)
        # A certificate does not become trusted by asking again.
        hubs = [address for address in hubs if address not in missed or missed[address].is_trusted]
        if not hubs or number + 1 == ROUNDS_MAX:
            break
        # An address that wants to be left alone is heeded once there is none that does not.
        time.sleep(max(_back_off(number), min(waits)))
    raise _sum_up(missed)


def _ask(address: Address, request: _Request, *, is_last: bool) -> Any:
    try:
        status, found, content = _exchange(address, request, is_last)
    except ssl.SSLCertVerificationError as error:
        reason = f"its certificate is not trusted: {error.verify_message}"
        text = f"the certificate of {address.url} is not trusted: {error.verify_message}"
        why = HubUnreachable(text, hint="set HMS_ESS_CA to the hub's CA, DIR/tls/ca.pem beside its data")
        why.__cause__ = error
        note_failure(address, time.monotonic(), 0.0)
        raise _Missed(why, reason, is_trusted=False) from error
    except (OSError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
        hint = "is it running? `hms-ess serve` prints the address it listens on"
        why = HubUnreachable(f"could not reach {address.url}: {reason}", hint=hint)
        why.__cause__ = error
        note_failure(address, time.monotonic(), 0.0)
        raise _Missed(why, reason) from error
    answer = _parsed(content)
    retry_after = _retry_after(found)
    if status in PASSED_ON:
        note_failure(address, time.monotonic(), retry_after)
    else:
        note_answer(address, time.monotonic())
    if 200 <= status < 300:
        return answer
    refused = refusal(status, answer if isinstance(answer, dict) else {})
    if status in PASSED_ON or status == TOO_MANY:
        raise _Missed(refused, refused.detail, retry_after=retry_after)
    raise refused


def _sum_up(missed: Mapping[Address, _Missed]) -> HmsEssError:
    """One address' own words, or each address with its reason."""
    misses = list(missed.values())
    last = misses[-1].why
    if len(misses) == 1:
        return last
    told = "; ".join(f"{address.url}: {miss.reason}" for address, miss in missed.items())
    detail = f"none of {len(misses)} hubs did it: {told}"
    for why in (miss.why for miss in reversed(misses)):
        if isinstance(why, Refused):
            return refusal(why.status, {**why.problem, "detail": detail})
    summed = HubUnreachable(detail, hint=last.hint)
    summed.__cause__ = last
    return summed


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


def _exchange(address: Address, request: _Request, is_last: bool) -> tuple[int, dict[str, str], bytes]:
    sent = {"Accept": "application/json, application/problem+json", **request.headers}
    if request.body is not None:
        sent.setdefault("Content-Type", "application/json")
    if address.token:
        sent["Authorization"] = f"Bearer {address.token}"
    connect_timeout = request.timeout if is_last else min(request.timeout, CONNECT_SECONDS)
    timeout = request.wait + (request.timeout if is_last else min(request.timeout, ANSWER_SECONDS))
    connection = _connection(address)
    is_kept = connection.sock is not None
    try:
        return _once(connection, request, sent, connect_timeout, timeout)
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        # A kept connection that the hub closed meanwhile says nothing about the hub: once more on a new one.
        if not is_kept or isinstance(error, socket.timeout):
            raise
    try:
        return _once(connection, request, sent, connect_timeout, timeout)
    except (OSError, http.client.HTTPException):
        connection.close()
        raise


def _once(
    connection: http.client.HTTPConnection,
    request: _Request,
    headers: Mapping[str, str],
    connect_timeout: float,
    timeout: float,
) -> tuple[int, dict[str, str], bytes]:
    if connection.sock is None:
        connection.timeout = connect_timeout
        connection.connect()
    connection.sock.settimeout(timeout)
    connection.request(request.method, request.path, body=request.body, headers=dict(headers))
    response = connection.getresponse()
    content = response.read(ANSWER_BYTES_MAX + 1)
    if len(content) > ANSWER_BYTES_MAX:
        raise http.client.HTTPException("the answer is over the limit")
    return response.status, {name.lower(): value for name, value in response.getheaders()}, content


def _connection(address: Address) -> http.client.HTTPConnection:
    pool: dict[tuple[int, Address], http.client.HTTPConnection] = _kept.__dict__.setdefault("pool", {})
    # A forked child must not speak on its parent's connection, so the process is part of the key.
    key = (os.getpid(), address)
    connection = pool.get(key)
    if connection is None:
        connection = pool[key] = _new(address)
    return connection


def _new(address: Address) -> http.client.HTTPConnection:
    parts = urlsplit(address.url)
    if parts.scheme == "http":
        return http.client.HTTPConnection(parts.hostname or "", parts.port)
    try:
        context = ssl.create_default_context(cafile=address.ca)
    except (OSError, ssl.SSLError) as error:
        raise NotConfigured(f"could not read the CA file {address.ca}: {error}", hint="check HMS_ESS_CA") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return http.client.HTTPSConnection(parts.hostname or "", parts.port, context=context)
