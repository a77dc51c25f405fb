"""The s3 channel against moto's server: the object, its checksum, what is never replaced, the receipt object."""

from __future__ import annotations

import base64
import hashlib
import json
import urllib.request
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

import boto3
import pytest
from conftest import ROOT, Client, Hub, add_partner, event, wait_for
from moto.server import ThreadedMotoServer

RETRY = {"first": "50ms", "factor": 1, "max": "100ms", "jitter": 0}
BUCKET = "county-rules"


class Store(NamedTuple):
    """An S3-compatible store with one bucket."""

    url: str
    s3: Any

    def names(self) -> list[str]:
        listed = self.s3.list_objects_v2(Bucket=BUCKET)
        return sorted(one["Key"] for one in listed.get("Contents", []))

    def body(self, name: str) -> bytes:
        return bytes(self.s3.get_object(Bucket=BUCKET, Key=name)["Body"].read())


@pytest.fixture
def store() -> Iterator[Store]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    s3 = boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="hub-key-id", aws_secret_access_key="hunter2"
    )
    s3.create_bucket(Bucket=BUCKET)
    yield Store(url, s3)
    for one in s3.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        s3.delete_object(Bucket=BUCKET, Key=one["Key"])
    server.stop()


def add_s3(client: Client, id: str, store: Store, **document: Any) -> Any:
    auth = {"user": "hub-key-id", "password": "hunter2"}
    more = {"channel": "s3", "endpoint": store.url, "auth": auth, "retry": RETRY, **document}
    return add_partner(client, id, f"s3://{BUCKET}/inbox", **more)


def delivery(client: Client, id: str, partner: str) -> Any:
    found = client.get(f"/v1/events/{id}/deliveries")["items"]
    return next((one for one in found if one["partner"] == partner), {"state": None})


def state(client: Client, id: str, partner: str) -> Any:
    return delivery(client, id, partner)["state"]


def publish(client: Client, id: str, payload: Any = None, **more: Any) -> None:
    answer = client.ask("POST", "/v1/events", {**event(id, "RULE-COURT", payload), **more})
    assert answer.status == 202, answer


def test_an_event_is_an_object_with_its_checksum_and_a_receipt_object_acknowledges(
    start_hub: Callable[..., Hub], store: Store, tmp_path: Path
) -> None:
    hub = start_hub(COUNTY_S3_SECRET="hunter2")
    client = hub.client()
    # The page's own partner, at this store.
    page = (ROOT / "docs/channels/s3.md").read_text().split("```yaml\n")[1].split("```")[0]
    file = tmp_path / "county.yaml"
    file.write_text(page.replace("https://s3.county.example", store.url))
    said = hub.run("partner", "add", str(file))
    assert said.returncode == 0, said
    publish(client, "RULE-V3", {"county": "Cook"})
    wait_for("the object", lambda: store.names() == ["inbox/RULE-V3.v1.json"])
    found = store.s3.get_object(Bucket=BUCKET, Key="inbox/RULE-V3.v1.json", ChecksumMode="ENABLED")
    body = found["Body"].read()
    assert json.loads(body)["payload"] == {"county": "Cook"}
    assert found["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(body).digest()).decode()
    assert found["ContentType"] == "application/json"
    assert found["Metadata"]["x-hms-event-id"] == "RULE-V3" and found["Metadata"]["webhook-signature"].startswith("v1,")
    wait_for("the wait", lambda: state(client, "RULE-V3", "COUNTY-ARCHIVE") == "awaiting_ack")
    store.s3.put_object(Bucket=BUCKET, Key="inbox/receipts/RULE-V3.ack", Body=b'{"ack": "RULE-V3"}')
    wait_for("the ACK", lambda: state(client, "RULE-V3", "COUNTY-ARCHIVE") == "ack")
    assert delivery(client, "RULE-V3", "COUNTY-ARCHIVE")["evidence"] == "file"
    # A receipt that counted is taken away; the drop stays.
    wait_for("the receipt to go", lambda: store.names() == ["inbox/RULE-V3.v1.json"])
    assert "hunter2" not in "".join(hub.log) + json.dumps(client.get("/v1/partners"))


def test_the_finished_put_is_the_receipt_and_another_object_is_never_replaced(
    start_hub: Callable[..., Hub], store: Store
) -> None:
    hub = start_hub()
    client = hub.client()
    add_s3(client, "COUNTY", store)
    large = {"text": "x" * 200_000}
    publish(client, "E-1", large)
    wait_for("the ACK", lambda: state(client, "E-1", "COUNTY") == "ack")
    assert delivery(client, "E-1", "COUNTY")["evidence"] == "status"
    first = store.body("inbox/E-1.v1.json")
    # The same bytes stand there already, as after an answer that was lost: delivered.
    add_s3(client, "TWIN", store)
    publish(client, "E-2")
    wait_for("both", lambda: [state(client, "E-2", one) for one in ("COUNTY", "TWIN")] == ["ack", "ack"])
    # Other bytes are not replaced, also when only their end differs.
    for id, body in (("E-3", b"somebody else's"), ("E-4", first + b" ")):
        store.s3.put_object(Bucket=BUCKET, Key=f"inbox/{id}.v1.json", Body=body)
        publish(client, id)
        wait_for("the dead letter", lambda: state(client, id, "COUNTY") == "dead")
        assert f"another object called {id}.v1.json" in delivery(client, id, "COUNTY")["reason"]
        assert store.body(f"inbox/{id}.v1.json") == body
    # A replay is an operator's word: it takes the place of the object from before.
    store.s3.put_object(Bucket=BUCKET, Key="inbox/E-1.v1.json", Body=b"spoilt")
    assert client.ask("POST", "/v1/events/E-1/replay", {"to": ["COUNTY"], "force": True}).status in (200, 202)
    wait_for("the replay", lambda: b"spoilt" not in store.body("inbox/E-1.v1.json"))
    assert client.ask("POST", "/v1/events", {**event("E-5", "RULE-COURT"), "test": True}).status == 202
    wait_for("the dry run", lambda: "inbox/test_E-5.v1.json" in store.names())


def test_a_bucket_that_is_not_there_is_tried_again_until_it_is(start_hub: Callable[..., Hub], store: Store) -> None:
    hub = start_hub()
    client = hub.client()
    auth = {"user": "hub-key-id", "password": "hunter2"}
    document = {"channel": "s3", "endpoint": store.url, "auth": auth, "retry": RETRY}
    add_partner(client, "LATE", "s3://later-bucket", **document)
    publish(client, "E-1")
    wait_for("a failure", lambda: "NoSuchBucket" in json.dumps(delivery(client, "E-1", "LATE")))
    store.s3.create_bucket(Bucket="later-bucket")
    wait_for("the ACK", lambda: state(client, "E-1", "LATE") == "ack")
    listed = store.s3.list_objects_v2(Bucket="later-bucket")["Contents"]
    assert [one["Key"] for one in listed] == ["E-1.v1.json"]


def check_signatures_after(store: Store, requests: int) -> None:
    url, headers = f"{store.url}/moto-api/reset-auth", {"content-type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(url, str(requests).encode(), headers)).close()


def test_a_store_that_checks_signatures_takes_ours_and_no_other_secrets(
    start_hub: Callable[..., Hub], store: Store
) -> None:
    iam = boto3.client(
        "iam", endpoint_url=store.url, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y"
    )
    iam.create_user(UserName="hub")
    allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    iam.put_user_policy(UserName="hub", PolicyName="drop", PolicyDocument=json.dumps(allowed))
    key = iam.create_access_key(UserName="hub")["AccessKey"]
    hub = start_hub()
    client = hub.client()
    auth = {"user": key["AccessKeyId"], "password": key["SecretAccessKey"]}
    add_s3(client, "RIGHT", store, auth=auth)
    add_s3(client, "WRONG", store, auth={**auth, "password": "another"})
    # From now on moto checks every signature, with botocore's own code.
    check_signatures_after(store, 0)
    try:
        publish(client, "E-1", {"note": "§ 7, a  b"})
        wait_for("the ACK", lambda: state(client, "E-1", "RIGHT") == "ack")
        wait_for("the refusal", lambda: "SignatureDoesNotMatch" in json.dumps(delivery(client, "E-1", "WRONG")))
    finally:
        check_signatures_after(store, 1_000_000_000)
