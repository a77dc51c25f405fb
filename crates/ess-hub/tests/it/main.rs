//! What the hub does, seen from outside.

mod outage;
mod scripts;
mod scripts_suite;
mod simulation;

// The real servers of the channels' and the store's own tests: the same files, of which this binary needs only a part.
#[path = "../../../ess-channels/tests/it/hanging_share.rs"]
mod hanging_share;
#[expect(dead_code)]
#[path = "../../../ess-channels/tests/it/kafka_cluster.rs"]
mod kafka_cluster;
#[expect(dead_code)]
#[path = "../../../ess-channels/tests/it/link.rs"]
mod link;
#[expect(dead_code)]
#[path = "../../../ess-channels/tests/it/mosquitto.rs"]
mod mosquitto;
#[expect(dead_code)]
#[path = "../../../ess-channels/tests/it/nats_server.rs"]
mod nats_server;
#[expect(dead_code)]
#[path = "../../../ess-store/tests/postgres/server.rs"]
mod postgres_server;
#[path = "../../../ess-channels/tests/it/python.rs"]
mod python;
#[expect(dead_code)]
#[path = "../../../ess-channels/tests/it/rabbit.rs"]
mod rabbit;
#[expect(dead_code)]
#[path = "../../../ess-channels/tests/it/sshd.rs"]
mod sshd;
