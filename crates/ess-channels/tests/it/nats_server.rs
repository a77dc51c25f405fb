//! nats-server with JetStream on a free loopback port, with a directory of its own, and what its streams hold. It ends
//! when it is dropped.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::link::wait_until;

/// The server.
pub(crate) struct NatsServer {
    pub(crate) address: SocketAddr,
    config: String,
    child: Option<Child>,
    dir: tempfile::TempDir,
}

/// A message as a stream holds it.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) subject: String,
    pub(crate) headers: String,
    pub(crate) body: Vec<u8>,
}

impl Stored {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// A plain client with an administrator's rights: one request, one answer.
struct Client {
    reader: BufReader<TcpStream>,
}

impl NatsServer {
    /// A server with these lines in its configuration, and a user `hub` with the password `s3cret pass`.
    pub(crate) async fn start(config: &str) -> NatsServer {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let dir = tempfile::tempdir().unwrap();
        let mut server = NatsServer { address, config: config.to_owned(), child: None, dir };
        server.start_again().await;
        server
    }

    /// Ends the process at once, as a crash does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it on the same port with what it had stored.
    pub(crate) async fn start_again(&mut self) {
        let path = self.dir.path().join("server.conf");
        let config = format!(
            "listen: \"{}\"\njetstream {{ store_dir: \"{}\" }}\n{}\n\
             authorization {{ users: [\n\
             {{ user: admin, password: admin }}\n\
             {{ user: deaf, password: deaf, permissions: {{ subscribe: \"court.>\" }} }}\n\
             {{ user: hub, password: \"s3cret pass\", permissions: {{ publish: {{ deny: \"secret.>\" }} }} }}\n] }}\n",
            self.address,
            self.dir.path().join("store").display(),
            self.config,
        );
        std::fs::write(&path, config).unwrap();
        let child = Command::new("nats-server")
            .args(["-c".as_ref(), path.as_os_str()])
            .stderr(Stdio::null())
            .spawn()
            .expect("the NATS server is missing: apt-get install nats-server");
        self.child = Some(child);
        let address = self.address;
        wait_until("nats-server listens", || TcpStream::connect(address).is_ok()).await;
    }

    /// Makes a stream.
    pub(crate) fn make_stream(&self, name: &str, more: Value) {
        let mut wanted = json!({"name": name, "storage": "file", "retention": "limits"});
        wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = Client::connect(self.address).ask(&format!("$JS.API.STREAM.CREATE.{name}"), &wanted);
        assert_eq!(answer["error"], Value::Null, "{answer}");
    }

    /// What a stream holds, in order.
    pub(crate) fn stored(&self, stream: &str) -> Vec<Stored> {
        let mut client = Client::connect(self.address);
        let info = client.ask(&format!("$JS.API.STREAM.INFO.{stream}"), &json!({}));
        let last = info["state"]["last_seq"].as_u64().unwrap();
        let mut all = Vec::new();
        for seq in 1..=last {
            let message = client.ask(&format!("$JS.API.STREAM.MSG.GET.{stream}"), &json!({"seq": seq}));
            let bytes = |name: &str| STANDARD.decode(message["message"][name].as_str().unwrap_or("")).unwrap();
            all.push(Stored {
                subject: message["message"]["subject"].as_str().unwrap().to_owned(),
                headers: String::from_utf8(bytes("hdrs")).unwrap(),
                body: bytes("data"),
            });
        }
        all
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Client {
    fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut client = Client { reader: BufReader::new(stream) };
        client.line();
        client.write("CONNECT {\"verbose\":false,\"user\":\"admin\",\"pass\":\"admin\"}\r\nSUB answers 1\r\n");
        client
    }

    fn write(&mut self, text: &str) {
        self.reader.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, subject: &str, body: &Value) -> Value {
        let body = body.to_string();
        self.write(&format!("PUB {subject} answers {}\r\n{body}\r\n", body.len()));
        loop {
            let line = self.line();
            if line == "PING" {
                self.write("PONG\r\n");
            } else if line.starts_with("MSG answers ") {
                let length: usize = line.rsplit(' ').next().unwrap().parse().unwrap();
                let mut content = vec![0; length + 2];
                self.reader.read_exact(&mut content).unwrap();
                return serde_json::from_slice(&content[..length]).unwrap();
            } else {
                assert!(line.starts_with("INFO"), "{line}");
            }
        }
    }
}
