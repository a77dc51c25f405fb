"""What can go wrong, by what the caller can do about it. Every text says how to mend it."""

from __future__ import annotations

from typing import Any, Mapping, Optional


class HmsEssError(Exception):
    """Base of everything this package raises. ``str(error)`` is the detail and, on its own line, the hint."""

    def __init__(self, detail: str, *, hint: Optional[str] = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        return self.detail if not self.hint else f"{self.detail}\nhint: {self.hint}"


class InvalidEvent(HmsEssError, ValueError):
    """The event cannot be published as it is; ``field`` names what is wrong. Nothing was sent."""

    def __init__(self, detail: str, *, field: str, hint: Optional[str] = None) -> None:
        super().__init__(detail, hint=hint)
        self.field = field


class NotConfigured(HmsEssError):
    """No hub is named, or the profile, token or CA file cannot be read. Nothing was sent."""


class HubUnreachable(HmsEssError, ConnectionError):
    """No hub answered within the retries. The event may or may not be recorded: publish it again."""


class BadSignature(HmsEssError, ValueError):
    """The body was not signed by this secret, or too long ago: answer 401 and do not act on it."""


class Refused(HmsEssError):
    """The hub answered and said no. ``code`` is the word to branch on."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        code = str(problem.get("code") or "unknown")
        detail = problem.get("detail") or problem.get("title") or f"the hub answered {status}"
        field = problem.get("field")
        where = f" (field {field})" if field else ""
        hint = problem.get("hint")
        super().__init__(f"{status} {code}: {detail}{where}", hint=str(hint) if hint else None)
        self.status = status
        self.code = code
        self.field: Optional[str] = str(field) if field else None
        request_id = problem.get("request_id")
        self.request_id: Optional[str] = str(request_id) if request_id else None
        self.problem: dict[str, Any] = dict(problem)


class Unauthorized(Refused):
    """401 or 403: no token, a token that is unknown, expired or revoked, or one whose role forbids it."""


class NotFound(Refused):
    """404: the hub knows no such event or partner."""


class Conflict(Refused):
    """409: the id is taken by an event with other content. Nothing changed; use a new id."""


class Unavailable(Refused):
    """429, 502, 503 or 504 until the retries ran out. Nothing is lost: publish it again."""


def refusal(status: int, problem: Mapping[str, Any]) -> Refused:
    """The error for an answer that is not 2xx."""
    kinds = {401: Unauthorized, 403: Unauthorized, 404: NotFound, 409: Conflict}
    if status in (429, 502, 503, 504):
        return Unavailable(status, problem)
    return kinds.get(status, Refused)(status, problem)
