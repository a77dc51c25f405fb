//! What idle MQTT partners cost, and messages a second by MQTT and MLLP beside a bare loop of the same protocol.
//!
//! `cargo run --release -p ess-channels --example brokers_bench`; it needs Mosquitto.

#![allow(clippy::print_stdout)]

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ess_channels::{Channel, Credential, Dialer, DialerOptions};
use ess_core::id::{Digest, EventId, Subject, Version};
use ess_core::message::Message;
use ess_core::partner::{AllowDir, AllowNet, Partner};
use ess_core::receipt::{Receipt, Said};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PARTNERS: usize = 1_000;
const MESSAGES: u32 = 20_000;
const IN_FLIGHT: u32 = 16;

struct Broker {
    address: SocketAddr,
    dir: tempfile::TempDir,
    child: Child,
}

impl Broker {
    fn start() -> Broker {
        let dir = tempfile::tempdir().unwrap();
        let cert = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(dir.path().join("cert"), cert.cert.pem()).unwrap();
        std::fs::write(dir.path().join("key"), cert.signing_key.serialize_pem()).unwrap();
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (address, tls) = (free(), Broker::tls_of(dir.path(), free()));
        let place = dir.path().display();
        let config = format!(
            "user root\nallow_anonymous true\nmax_queued_messages 0\nlistener {} 127.0.0.1\n\
             listener {} 127.0.0.1\ncertfile {place}/cert\nkeyfile {place}/key\n",
            address.port(),
            tls.port()
        );
        std::fs::write(dir.path().join("conf"), config).unwrap();
        let child = Command::new("/usr/sbin/mosquitto")
            .arg("-c")
            .arg(dir.path().join("conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while std::net::TcpStream::connect(address).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        Broker { address, dir, child }
    }

    fn tls_of(dir: &std::path::Path, address: SocketAddr) -> SocketAddr {
        std::fs::write(dir.join("tls"), address.to_string()).unwrap();
        address
    }

    fn tls(&self) -> SocketAddr {
        std::fs::read_to_string(self.dir.path().join("tls")).unwrap().parse().unwrap()
    }

    fn dialer(&self) -> Dialer {
        Dialer::new(DialerOptions {
            allow: AllowNet(vec!["127.0.0.0/8".parse().unwrap()]),
            allow_dir: AllowDir::default(),
            extra_roots_pem: vec![std::fs::read(self.dir.path().join("cert")).unwrap()],
            system_roots: false,
            user_agent: "hms-ess/bench".to_owned(),
            proxy: None,
        })
        .unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn open(id: &str, channel: &str, url: &str, dialer: &Dialer, more: Value) -> Channel {
    let mut document = json!({"id": id, "channel": channel, "url": url});
    document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Channel::open(&Partner::from_json(&document).unwrap(), url, Credential::None, dialer).unwrap()
}

fn message(number: u32) -> Message {
    let body = format!("MSH|^~\\&|HMS-ESS||||1||MFN^M02|{number}|P|2.5.1\rNTE|1||{}\r", "x".repeat(400));
    Message {
        id: format!("msg_{number}"),
        event_id: EventId::trusted(&format!("E-{number}")),
        subject: Subject::trusted("RULE"),
        version: Version(1),
        extension: "hl7",
        content_type: "application/hl7-v2".to_owned(),
        headers: vec![("webhook-id".to_owned(), format!("msg_{number}"))],
        body: Bytes::from(body),
        body_digest: Digest([0; 32]),
        test: false,
        replay: false,
        partner_seq: None,
        attempt: 1,
    }
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn idle(broker: &Broker, scheme: &str, address: SocketAddr) {
    let dialer = broker.dialer();
    let before = resident_kib();
    let mut channels = Vec::new();
    for number in 0..PARTNERS {
        let id = format!("{scheme}-{number}");
        let more = json!({"ack": {"topic": "acks/{partner}"}});
        let channel = open(&id, "mqtt", &format!("{scheme}://{address}/rules/{id}"), &dialer, more);
        let receipt = channel.send(&message(1), tokio::time::Instant::now() + Duration::from_secs(30)).await;
        assert!(matches!(receipt, Receipt::Confirmed), "{receipt:?}");
        channels.push(channel);
    }
    let grown = resident_kib().saturating_sub(before);
    println!("{PARTNERS} connected {scheme} partners: {:.1} MiB", grown as f64 / 1024.0);
}

async fn rate(name: &str, channel: Channel) {
    let channel = Arc::new(channel);
    let began = Instant::now();
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..IN_FLIGHT {
        let channel = channel.clone();
        lanes.spawn(async move {
            for number in (lane..MESSAGES).step_by(IN_FLIGHT as usize) {
                let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
                let receipt = channel.send(&message(number), deadline).await;
                assert!(matches!(receipt, Receipt::Confirmed | Receipt::Said(Said::Ack)), "{receipt:?}");
            }
        });
    }
    lanes.join_all().await;
    told(name, began);
}

fn told(name: &str, began: Instant) {
    println!("{name}: {:.0} messages/s", f64::from(MESSAGES) / began.elapsed().as_secs_f64());
}

fn plain_mqtt(broker: &Broker) {
    let lines: String = (0..MESSAGES).map(|_| format!("{}\n", "x".repeat(460))).collect();
    let path = broker.dir.path().join("lines");
    std::fs::write(&path, lines).unwrap();
    let began = Instant::now();
    let status = Command::new("mosquitto_pub")
        .args(["-V", "mqttv5", "-q", "1", "-l", "-t", "rules/RULE", "-p", &broker.address.port().to_string()])
        .stdin(std::fs::File::open(&path).unwrap())
        .status()
        .unwrap();
    assert!(status.success());
    told("mosquitto_pub -l", began);
}

/// A receiver that says AA to everything.
async fn receiver() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
                    if bytes.ends_with(b"\x1c\r") {
                        let id = String::from_utf8_lossy(&bytes).split('|').nth(9).unwrap().to_owned();
                        bytes.clear();
                        let ack = format!("\x0bMSH|^~\\&|EMR||||||ACK|1|P|2.5.1\rMSA|AA|{id}\r\x1c\r");
                        let _ = stream.write_all(ack.as_bytes()).await;
                    }
                }
            });
        }
    });
    address
}

async fn plain_mllp(address: SocketAddr) {
    let began = Instant::now();
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..IN_FLIGHT {
        lanes.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut bytes = Vec::new();
            for number in (lane..MESSAGES).step_by(IN_FLIGHT as usize) {
                let frame = [b"\x0b", &message(number).body[..], b"\x1c\r"].concat();
                stream.write_all(&frame).await.unwrap();
                bytes.clear();
                while !bytes.ends_with(b"\x1c\r") {
                    stream.read_buf(&mut bytes).await.unwrap();
                }
            }
        });
    }
    lanes.join_all().await;
    told("a bare MLLP loop", began);
}

#[tokio::main]
async fn main() {
    let broker = Broker::start();
    idle(&broker, "mqtt", broker.address).await;
    idle(&broker, "mqtts", broker.tls()).await;
    plain_mqtt(&broker);
    let url = format!("mqtt://{}/rules/{{subject}}", broker.address);
    rate("channel mqtt", open("P", "mqtt", &url, &broker.dialer(), json!({}))).await;
    let receiver = receiver().await;
    plain_mllp(receiver).await;
    rate("channel mllp", open("P", "mllp", &format!("mllp://{receiver}"), &broker.dialer(), json!({}))).await;
}
