//! The channels against real sockets on loopback: partners that behave, and partners that do not.

mod amqp;
mod conformance;
mod email;
mod file;
mod guard;
mod handshake;
mod hanging_share;
mod hostile;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "kafka")]
mod kafka_cluster;
#[cfg(feature = "kafka")]
mod kafka_front;
mod left;
mod link;
mod mllp;
mod mosquitto;
mod mqtt;
mod nats;
mod nats_server;
mod oauth;
mod partner;
mod proxy;
mod pull;
mod python;
mod rabbit;
mod s3;
mod sftp;
mod sshd;
mod tls;
mod webhook;
