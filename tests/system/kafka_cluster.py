"""librdkafka's own brokers on loopback ports, as its authors test it with: they speak the protocol, keep what is produced
in memory, and can be told to change leaders, fail and vanish.

As a program it reads commands, a line each, and answers each with a line of JSON; it ends with its input.
"""

from __future__ import annotations

import base64
import ctypes
import json
import sys
import time
from pathlib import Path
from typing import Any, Iterator

import confluent_kafka
from confluent_kafka import Consumer, KafkaError, TopicPartition

PRODUCE = 0


def library() -> Any:
    """The same library that the Python client brings, for what that client does not pass on."""
    site = Path(confluent_kafka.__file__).parent.parent
    [path] = (site / "confluent_kafka.libs").glob("librdkafka*.so*")
    loaded = ctypes.CDLL(str(path))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
        getattr(loaded, name).restype = ctypes.c_void_p
    loaded.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    loaded.rd_kafka_new.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    return loaded


class Cluster:
    """Brokers numbered from 1, and the topics that were made."""

    def __init__(self, brokers: int = 1) -> None:
        self._library = library()
        words = ctypes.create_string_buffer(512)
        client = self._library.rd_kafka_new(0, self._library.rd_kafka_conf_new(), words, 512)
        assert client, words.value
        self._cluster = ctypes.c_void_p(
            self._library.rd_kafka_mock_cluster_new(ctypes.c_void_p(client), ctypes.c_int(brokers))
        )
        addresses = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode().split(",")
        self.addresses: list[str] = addresses
        self._said: dict[int, str] = dict(enumerate(addresses, 1))

    def _do(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, f"rd_kafka_mock_{name}")(self._cluster, *arguments)
        assert code == 0, f"{name}{arguments}: {code}"

    def make(self, topic: str, partitions: int = 1) -> None:
        """Makes a topic that every broker has."""
        self._do("topic_create", topic.encode(), ctypes.c_int(partitions), ctypes.c_int(len(self.addresses)))

    def lead(self, topic: str, partition: int, broker: int) -> None:
        """Makes this broker lead the partition."""
        self._do("partition_set_leader", topic.encode(), ctypes.c_int32(partition), ctypes.c_int32(broker))

    def down(self, broker: int) -> None:
        """Ends the broker's connections and takes no new ones."""
        self._do("broker_set_down", ctypes.c_int32(broker))

    def up(self, broker: int) -> None:
        """Takes connections again."""
        self._do("broker_set_up", ctypes.c_int32(broker))

    def say(self, broker: int, address: str) -> None:
        """Lets the cluster say that the broker is there, as one behind a proxy does."""
        host, port = address.rsplit(":", 1)
        self._library.rd_kafka_mock_broker_set_host_port(
            self._cluster, ctypes.c_int32(broker), host.encode(), ctypes.c_int(int(port))
        )
        self._said[broker] = address

    def fail(self, *codes: int) -> None:
        """Answers the next messages with these codes of the protocol."""
        values = (ctypes.c_int * len(codes))(*codes)
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, ctypes.c_int16(PRODUCE), ctypes.c_size_t(len(codes)), values
        )

    def messages(self, topic: str) -> list[dict[str, Any]]:
        """All that the topic holds, oldest first in each partition."""
        said = dict(self._said)
        for broker, address in enumerate(self.addresses, 1):
            self.say(broker, address)
        try:
            return list(self._read(topic))
        finally:
            for broker, address in said.items():
                self.say(broker, address)

    def _read(self, topic: str) -> Iterator[dict[str, Any]]:
        consumer = Consumer(
            {"bootstrap.servers": ",".join(self.addresses), "group.id": "reader", "enable.partition.eof": True,
             "enable.auto.commit": False, "check.crcs": True, "fetch.wait.max.ms": 10, "log_level": 0}
        )
        try:
            partitions = consumer.list_topics(topic, 20).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
            left, until = len(partitions), time.monotonic() + 60
            while left:
                assert time.monotonic() < until, f"could not read {topic} to its end"
                message = consumer.poll(1)
                if message is None:
                    continue
                error = message.error()
                if error is None:
                    yield plain(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    left -= 1
        finally:
            consumer.close()


def plain(message: Any) -> dict[str, Any]:
    """The message as JSON has it."""
    return {
        "partition": message.partition(),
        "offset": message.offset(),
        "key": (message.key() or b"").decode(),
        "headers": {name: value.decode() for name, value in message.headers() or []},
        "body": base64.b64encode(message.value() or b"").decode(),
    }


def main() -> None:
    """Obeys the lines of the standard input."""
    cluster = Cluster(int(sys.argv[1]))
    print(json.dumps(cluster.addresses), flush=True)
    for line in sys.stdin:
        name, *arguments = line.split()
        numbers = [int(word) if word.isdigit() else word for word in arguments]
        print(json.dumps(getattr(cluster, name)(*numbers)), flush=True)


if __name__ == "__main__":
    main()
