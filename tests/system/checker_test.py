"""Every 2xx that a publisher got is, later, exactly one ended delivery for each partner it was for; partners come and go meanwhile."""

from __future__ import annotations

import random
import threading
from typing import Any, Callable

from harness import Hub, Partners, acknowledge, partner_document, stumble, wait_for

PUBLISHERS = 4
EVENTS_EACH = 400
STABLE = ["STAY-0", "STAY-1", "STAY-2"]
GUESTS = [f"GUEST-{number}" for number in range(6)]
ENDS = {"ack", "nack", "dead", "superseded", "cancelled"}


class Book:
    """What publishers were answered, and what partners did."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.receipts: dict[str, dict[str, Any]] = {}
        self.complaints: list[str] = []

    def complain(self, what: str) -> None:
        with self.guard:
            self.complaints.append(what)


def publish(hub: Hub, book: Book, name: str) -> None:
    client = hub.client()
    for number in range(EVENTS_EACH):
        id = f"EVT-{name}-{number}"
        subject = f"SHARED-{number % 5}" if number % 3 == 0 else id
        answer = client.ask("POST", "/v1/events", {"id": id, "version": 1, "subject": subject, "payload": number})
        if answer.status == 202:
            with book.guard:
                book.receipts[id] = answer.json()
        else:
            book.complain(f"publish of {id}: {answer.status} {answer.body!r}")
        if number % 10 == 0:
            # A publisher that was not sure and asks again gets its first receipt.
            again = client.ask("POST", "/v1/events", {"id": id, "version": 1, "subject": subject, "payload": number})
            if again.status != 200 or again.json()["sequence"] != answer.json()["sequence"]:
                book.complain(f"repeat of {id}: {again.status} {again.body!r}")
    client.close()


def come_and_go(hub: Hub, book: Book, port: int, id: str, stop: threading.Event, seed: int) -> None:
    """Adds, pauses, resumes and removes a partner, over and over."""
    client = hub.client()
    dice = random.Random(seed)

    def expect(status: int, method: str, path: str, body: Any = None) -> None:
        answer = client.ask(method, path, body)
        if answer.status != status:
            book.complain(f"{method} {path}: {answer.status} {answer.body!r}")

    while not stop.is_set():
        expect(201, "POST", "/v1/partners", partner_document(id, port, retry={"first": "100ms"}))
        for _ in range(dice.randrange(3)):
            stop.wait(dice.uniform(0.0, 0.1))
            expect(200, "POST", f"/v1/partners/{id}/pause")
            stop.wait(dice.uniform(0.0, 0.1))
            expect(200, "POST", f"/v1/partners/{id}/resume")
        stop.wait(dice.uniform(0.0, 0.2))
        expect(204, "DELETE", f"/v1/partners/{id}")
    client.close()


def test_every_answered_publish_is_one_ended_delivery_for_each_of_its_partners(
    make_hub: Callable[..., Hub], partners: Partners
) -> None:
    seed = random.randrange(1 << 32)
    hub = make_hub().start()
    client = hub.client()
    book = Book()
    for number, id in enumerate(STABLE):
        behaviour = stumble if number == 2 else acknowledge
        document = partner_document(id, partners.listen(behaviour), retry={"first": "50ms", "max": "200ms"})
        assert client.ask("POST", "/v1/partners", document).status == 201
    stop = threading.Event()
    port = partners.listen(acknowledge)
    guests = [
        threading.Thread(target=come_and_go, args=(hub, book, port, id, stop, seed + number))
        for number, id in enumerate(GUESTS)
    ]
    publishers = [threading.Thread(target=publish, args=(hub, book, str(number))) for number in range(PUBLISHERS)]
    for thread in guests + publishers:
        thread.start()
    for thread in publishers:
        thread.join(180)
        assert not thread.is_alive(), "a publisher hangs"
    stop.set()
    for thread in guests:
        thread.join(60)
        assert not thread.is_alive(), "a change of a partner hangs"

    assert len(book.receipts) == PUBLISHERS * EVENTS_EACH
    open_events = set(book.receipts)
    deliveries: dict[str, list[Any]] = {}

    def all_ended() -> bool:
        for id in sorted(open_events):
            found = client.ask("GET", f"/v1/events/{id}/deliveries").json()["items"]
            if any(delivery["state"] not in ENDS for delivery in found):
                return False
            deliveries[id] = found
            open_events.discard(id)
        return True

    wait_for("every delivery to end", all_ended, 120)
    for id, receipt in book.receipts.items():
        check(book, id, receipt, deliveries[id])
    check_arrivals(book, partners)
    assert not book.complaints, f"seed {seed}: {len(book.complaints)} complaints:\n" + "\n".join(book.complaints[:20])
    print(f"{len(book.receipts)} events, {sum(map(len, deliveries.values()))} deliveries, {len(partners.arrivals)} arrivals")


def check(book: Book, id: str, receipt: dict[str, Any], found: list[Any]) -> None:
    """One event: as many deliveries as the receipt promised, one each, acknowledged unless the partner has left."""
    names = [delivery["partner"] for delivery in found]
    if len(names) != receipt["partners"]:
        book.complain(f"{id}: the receipt says {receipt['partners']} partners, the deliveries are for {names}")
    if len(set(names)) != len(names):
        book.complain(f"{id}: more than one delivery for a partner: {names}")
    states = {delivery["partner"]: delivery["state"] for delivery in found}
    for partner in STABLE:
        if states.get(partner) != "ack":
            book.complain(f"{id} at {partner}, which never left: {states.get(partner)}")
    for partner, state in states.items():
        if state not in {"ack", "cancelled"}:
            book.complain(f"{id} at {partner}: {state}")


def check_arrivals(book: Book, partners: Partners) -> None:
    """Without a crash nothing comes twice, but to a partner that left and came back under the same name it may."""
    seen: set[tuple[str, str]] = set()
    for arrival in partners.arrivals:
        key = (arrival.event, arrival.partner)
        if key in seen and arrival.partner in STABLE:
            book.complain(f"{key} came twice")
        seen.add(key)
    for id in book.receipts:
        missing = [partner for partner in STABLE if (id, partner) not in seen]
        if missing:
            book.complain(f"{id} never came to {missing}")
