"""The API as a type checker must see it. Checked by mypy --strict, never run."""

from __future__ import annotations

from decimal import Decimal
from typing import Iterator

from typing_extensions import assert_type

from hms_ess import ChangeEvent, InboxMessage, Receipt, ack, inbox, is_test, nack, publish, status, verify

event = ChangeEvent("RULE-COURT-DEADLINE-V3", 3, {"fee": Decimal("1.10")}, references=["RULE-COURT-DEADLINE-V2"])
hub = "https://hub.sandbox.gov"
assert_type(publish(event, hub, dry_run=True), Receipt)
assert_type(publish(event)["sequence"], int)
assert_type(publish(event, ["https://a.gov", "https://b.gov"]), Receipt)
assert_type(inbox("COURT-CAL", ("https://a.gov", "https://b.gov")), Iterator[InboxMessage])
assert_type(status("RULE-COURT-DEADLINE-V3"), dict[str, str])
assert_type(ack(event.id), dict[str, str])
nack(event.id, "unknown county", retryable=True)
assert_type(is_test({"X-HMS-Test": "true"}, {"id": event.id}), bool)
assert_type(verify(b"", {}, ["whsec_a", "whpk_b"]), bool)
assert_type(inbox("COURT-CAL"), Iterator[InboxMessage])
publish({"id": "x"})  # type: ignore[arg-type]
publish(event, 7)  # type: ignore[arg-type]
ChangeEvent("x", "3", {})  # type: ignore[arg-type]
