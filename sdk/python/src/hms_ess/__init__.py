"""Publish rule changes to an HMS-ESS Sync Hub, and receive them. Standard library only.

    from hms_ess import ChangeEvent, publish
    publish(ChangeEvent(id="RULE-COURT-DEADLINE-V3", version=3, payload={"deadline": "16:00"}))
"""

from ._client import Blocked, InboxMessage, Receipt, inbox, publish, status
from ._errors import (
    BadSignature,
    Conflict,
    HmsEssError,
    HubUnreachable,
    InvalidEvent,
    NotConfigured,
    NotFound,
    Refused,
    Unauthorized,
    Unavailable,
)
from ._event import ChangeEvent
from ._receive import ack, is_test, nack, verify

__version__ = "0.1.0"

__all__ = [
    "BadSignature",
    "Blocked",
    "ChangeEvent",
    "Conflict",
    "HmsEssError",
    "HubUnreachable",
    "InboxMessage",
    "InvalidEvent",
    "NotConfigured",
    "NotFound",
    "Receipt",
    "Refused",
    "Unauthorized",
    "Unavailable",
    "ack",
    "inbox",
    "is_test",
    "nack",
    "publish",
    "status",
    "verify",
]
