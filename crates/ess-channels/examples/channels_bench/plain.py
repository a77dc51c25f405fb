"""Plain clients of protocols, for the bench of the channels: `plain.py PROTOCOL ADDRESS COUNT AT_ONCE FIRST` sends so many
messages, so many at once, and prints the seconds that it took without its own start."""

import asyncio
import hashlib
import os
import sys
import threading
import time
from typing import Callable

PROTOCOL, ADDRESS = sys.argv[1:3]
COUNT, AT_ONCE, FIRST = map(int, sys.argv[3:6])
HOST, _, PORT = ADDRESS.partition(":")
BODY = b"x" * 460


def threads(open_one: Callable[[], Callable[[int], None]]) -> float:
    """Each thread has a client of its own and sends its share."""

    def run(lane: int, send: Callable[[int], None]) -> None:
        for number in range(FIRST + lane, FIRST + COUNT, AT_ONCE):
            send(number)

    clients = [open_one() for _ in range(AT_ONCE)]
    began = time.monotonic()
    lanes = [threading.Thread(target=run, args=lane) for lane in enumerate(clients)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    return time.monotonic() - began


def amqp() -> Callable[[int], None]:
    import pika

    login = pika.PlainCredentials("hub", "s3cret pass")
    channel = pika.BlockingConnection(pika.ConnectionParameters(HOST, int(PORT), "/", login)).channel()
    channel.confirm_delivery()

    def send(number: int) -> None:
        properties = pika.BasicProperties(delivery_mode=2, message_id=f"plain_{number}", content_type="application/json")
        channel.basic_publish("amq.topic", "rules.x", BODY, properties, mandatory=True)

    return send


def mllp() -> Callable[[int], None]:
    from hl7.client import MLLPClient

    client = MLLPClient(HOST, int(PORT))

    def send(number: int) -> None:
        answer = client.send_message(f"MSH|^~\\&|HMS-ESS||||1||MFN^M02|{number}|P|2.5.1\rNTE|1||{'x' * 400}\r".encode())
        assert f"\rMSA|AA|{number}\r".encode() in answer

    return send


def smtp() -> Callable[[int], None]:
    import smtplib
    from email.message import EmailMessage

    def send(number: int) -> None:
        mail = EmailMessage()
        mail["From"], mail["To"], mail["Subject"] = "hub@x.example", "clerk@court.example", f"E-{number}"
        mail.set_content(BODY.decode())
        mail.add_alternative(f"<p>{BODY.decode()}</p>", subtype="html")
        mail.add_attachment(BODY, maintype="application", subtype="json", filename=f"E-{number}.json")
        with smtplib.SMTP(HOST, int(PORT), local_hostname="hub.example") as server:
            server.send_message(mail)

    return send


def s3() -> Callable[[int], None]:
    import base64

    import boto3

    login = {"aws_access_key_id": "id", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    client = boto3.session.Session().client("s3", endpoint_url=f"http://{ADDRESS}", **login)

    def send(number: int) -> None:
        digest = base64.b64encode(hashlib.sha256(BODY).digest()).decode()
        client.put_object(Bucket="rules", Key=f"plain/{number}", Body=BODY, IfNoneMatch="*", ChecksumSHA256=digest)

    return send


def file() -> Callable[[int], None]:
    folder = os.open(ADDRESS, os.O_RDONLY)

    def send(number: int) -> None:
        name = f"{ADDRESS}/plain-{number}"
        with open(f"{name}.part", "xb") as part:
            part.write(BODY)
            part.flush()
            os.fsync(part.fileno())
        os.rename(f"{name}.part", name)
        os.fsync(folder)

    return send


async def nats() -> float:
    import nats as library

    client = await library.connect(f"nats://{ADDRESS}", user="hub", password="s3cret pass")
    stream = client.jetstream()

    async def run(lane: int) -> None:
        for number in range(FIRST + lane, FIRST + COUNT, AT_ONCE):
            await stream.publish("rules.x", BODY, headers={"Nats-Msg-Id": f"plain_{number}"})

    began = time.monotonic()
    await asyncio.gather(*(run(lane) for lane in range(AT_ONCE)))
    took = time.monotonic() - began
    await client.close()
    return took


def kafka() -> float:
    from confluent_kafka import Producer

    settings = {"bootstrap.servers": ADDRESS, "acks": "all", "enable.idempotence": True, "linger.ms": 0}
    producer = Producer(settings)
    under_way, failed = 0, []

    def done(error: object, _: object) -> None:
        nonlocal under_way
        under_way -= 1
        if error is not None:
            failed.append(error)

    def wait_for(most: int) -> None:
        while under_way > most:
            producer.poll(1)

    def send(number: int) -> None:
        nonlocal under_way
        under_way += 1
        headers = {"webhook-id": f"plain_{number}"}
        producer.produce("rules", BODY, key="RULE", headers=headers, on_delivery=done)

    # Who leads the topic is asked once.
    send(FIRST)
    wait_for(0)
    began = time.monotonic()
    for number in range(FIRST, FIRST + COUNT):
        wait_for(AT_ONCE - 1)
        send(number)
    wait_for(0)
    took = time.monotonic() - began
    assert not failed, failed[0]
    return took


if PROTOCOL == "nats":
    print(asyncio.run(nats()))
elif PROTOCOL == "kafka":
    print(kafka())
else:
    print(threads({"amqp": amqp, "mllp": mllp, "smtp": smtp, "s3": s3, "file": file}[PROTOCOL]))
