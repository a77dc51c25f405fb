//! The brokers of `tests/system/kafka_cluster.py`, told what to do line by line; they end when they are dropped.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Brokers that are numbered from 1.
pub(crate) struct Brokers {
    pub(crate) addresses: Vec<SocketAddr>,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    process: Child,
}

/// A record as librdkafka reads it.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) key: String,
    pub(crate) headers: Value,
    pub(crate) body: Vec<u8>,
}

impl Record {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].as_str().unwrap_or_default()
    }
}

impl Brokers {
    pub(crate) fn start(count: usize) -> Brokers {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut process = Command::new(root.join("target/venv/bin/python"))
            .arg(root.join("tests/system/kafka_cluster.py"))
            .arg(count.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("target/venv is missing: cargo xtask test makes it");
        let pipes = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        let mut brokers = Brokers { addresses: Vec::new(), pipes: Mutex::new(pipes), process };
        let said = brokers.read();
        brokers.addresses = said.as_array().unwrap().iter().map(|a| a.as_str().unwrap().parse().unwrap()).collect();
        brokers
    }

    fn read(&self) -> Value {
        let mut line = String::new();
        self.pipes.lock().unwrap().1.read_line(&mut line).unwrap();
        serde_json::from_str(&line).expect("the brokers ended; is confluent-kafka in target/venv?")
    }

    /// Gives a command, such as `down 1`, and waits until it was done.
    pub(crate) fn tell(&self, command: &str) -> Value {
        writeln!(self.pipes.lock().unwrap().0, "{command}").unwrap();
        self.read()
    }

    /// All that a topic holds.
    pub(crate) fn records(&self, topic: &str) -> Vec<Record> {
        let all = self.tell(&format!("messages {topic}"));
        let record = |value: &Value| Record {
            key: value["key"].as_str().unwrap().to_owned(),
            headers: value["headers"].clone(),
            body: STANDARD.decode(value["body"].as_str().unwrap()).unwrap(),
        };
        all.as_array().unwrap().iter().map(record).collect()
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
