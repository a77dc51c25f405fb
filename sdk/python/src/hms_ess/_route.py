"""Which of several addresses is asked first: the one that answered last. One that failed is left alone for a while."""

from __future__ import annotations

from typing import NamedTuple, Sequence

from ._profile import Address

REST_FIRST = 1.0
REST_MAX = 30.0
# A program talks to few hubs; one that makes up addresses for ever must not fill the memory.
KNOWN_MAX = 256


class _Standing(NamedTuple):
    answered_at: float = 0.0
    failures: int = 0
    rests_until: float = 0.0


# Shared by all threads: each entry is replaced whole, so a race loses no more than a count.
_known: dict[str, _Standing] = {}


def order(addresses: Sequence[Address], now: float) -> list[Address]:
    """All of them: those that do not rest first, of these the last to answer; else as they were named."""

    def place(address: Address) -> tuple[bool, float]:
        standing = _known.get(address.url, _Standing())
        rests = standing.rests_until > now
        return rests, standing.rests_until if rests else -standing.answered_at

    return sorted(addresses, key=place)


def note_answer(address: Address, now: float) -> None:
    """It answered: it is asked first from now on."""
    _put(address, _Standing(answered_at=now))


def note_failure(address: Address, now: float, rest_min: float) -> None:
    """It failed: it rests, each time twice as long, until it answers."""
    standing = _known.get(address.url, _Standing())
    rest = min(REST_MAX, REST_FIRST * float(2 ** min(standing.failures, 10)))
    _put(address, _Standing(standing.answered_at, standing.failures + 1, now + max(rest, rest_min)))


def _put(address: Address, standing: _Standing) -> None:
    if len(_known) >= KNOWN_MAX and address.url not in _known:
        _known.clear()
    _known[address.url] = standing
