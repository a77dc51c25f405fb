//! RabbitMQ on free loopback ports, with a node, a name server and directories of its own, and what its queues hold. It
//! ends when it is dropped.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::link::wait_long_until;

/// The broker, with a user `hub` whose password is `s3cret pass`, and a virtual host `/`.
pub(crate) struct Rabbit {
    pub(crate) address: SocketAddr,
    /// Where TLS is, if the configuration has it at `TLS_PORT`.
    pub(crate) tls_port: u16,
    ports: [u16; 2],
    config: String,
    names: Child,
    node: Option<Child>,
    dir: tempfile::TempDir,
}

/// A message as a queue gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Taken {
    /// The content header's properties as they came.
    pub(crate) properties: Vec<u8>,
    pub(crate) routing_key: String,
    pub(crate) body: Vec<u8>,
}

impl Taken {
    /// Whether the properties hold this text.
    pub(crate) fn holds(&self, text: &[u8]) -> bool {
        self.properties.windows(text.len()).any(|window| window == text)
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Rabbit {
    pub(crate) async fn start(config: &str) -> Rabbit {
        let [port, tls_port, dist_port, names_port] = std::array::from_fn(|_| free_port());
        let names = Command::new("epmd")
            .args(["-port", &names_port.to_string(), "-address", "127.0.0.1", "-relaxed_command_check"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("RabbitMQ is missing: apt-get install rabbitmq-server");
        let mut rabbit = Rabbit {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            tls_port,
            ports: [dist_port, names_port],
            config: config.replace("TLS_PORT", &tls_port.to_string()),
            names,
            node: None,
            dir: tempfile::tempdir().unwrap(),
        };
        wait_long_until("epmd listens", || TcpStream::connect(("127.0.0.1", names_port)).is_ok()).await;
        rabbit.start_again().await;
        rabbit
    }

    /// Starts it on the same ports with what it had stored.
    pub(crate) async fn start_again(&mut self) {
        let path = |name: &str| self.dir.path().join(name);
        let config = format!(
            "listeners.tcp.1 = {}\ndefault_user = hub\ndefault_pass = s3cret pass\n{}\n",
            self.address, self.config
        );
        std::fs::write(path("rabbitmq.conf"), config).unwrap();
        std::fs::write(path("env.conf"), "").unwrap();
        std::fs::write(path("plugins"), "[rabbitmq_auth_mechanism_ssl].").unwrap();
        let node = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server")
            .env("HOME", self.dir.path())
            .env("RABBITMQ_CONF_ENV_FILE", path("env.conf"))
            .env("RABBITMQ_NODENAME", format!("ess{}@localhost", self.address.port()))
            .env("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf"))
            .env("RABBITMQ_MNESIA_BASE", path("mnesia"))
            .env("RABBITMQ_LOG_BASE", path("log"))
            .env("RABBITMQ_PID_FILE", path("pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins"))
            .env("RABBITMQ_DIST_PORT", self.ports[0].to_string())
            .env("ERL_EPMD_PORT", self.ports[1].to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("RabbitMQ is missing: apt-get install rabbitmq-server");
        self.node = Some(node);
        let address = self.address;
        wait_long_until("RabbitMQ lets a client in", || Client::try_connect(address).is_some()).await;
    }

    /// Ends it at once, as a crash does, and waits until its port is closed.
    pub(crate) async fn kill(&mut self) {
        self.end();
        let address = self.address;
        wait_long_until("RabbitMQ is gone", || TcpStream::connect(address).is_err()).await;
    }

    fn end(&mut self) {
        if let Some(mut node) = self.node.take() {
            let group = rustix::process::Pid::from_child(&node);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            let _ = node.wait();
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::try_connect(self.address).unwrap()
    }
}

impl Drop for Rabbit {
    fn drop(&mut self) {
        self.end();
        let _ = self.names.kill();
        let _ = self.names.wait();
    }
}

/// A plain client: one method, one answer. It shares no line with the hub's own.
pub(crate) struct Client(TcpStream);

impl Client {
    fn try_connect(address: SocketAddr) -> Option<Client> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut client = Client(stream);
        client.0.write_all(b"AMQP\0\0\x09\x01").ok()?;
        client.read()?;
        let plain = b"\0hub\0s3cret pass";
        let mut start_ok = vec![0, 10, 0, 11, 0, 0, 0, 0];
        start_ok.extend_from_slice(b"\x05PLAIN");
        start_ok.extend_from_slice(&(plain.len() as u32).to_be_bytes());
        start_ok.extend_from_slice(plain);
        start_ok.extend_from_slice(b"\x05en_US");
        client.write(0, &start_ok);
        client.read()?;
        client.write(0, &[0, 10, 0, 31, 0, 1, 0, 2, 0, 0, 0, 0]);
        client.write(0, b"\0\x0A\0\x28\x01/\0\0");
        client.read()?;
        client.write(1, &[0, 20, 0, 10, 0]);
        client.read()?;
        Some(client)
    }

    fn write(&mut self, channel: u8, payload: &[u8]) {
        let mut frame = vec![1, 0, channel];
        frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        frame.extend_from_slice(payload);
        frame.push(0xCE);
        let _ = self.0.write_all(&frame);
    }

    /// The next frame's kind and payload.
    fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            let mut head = [0; 7];
            self.0.read_exact(&mut head).ok()?;
            let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let mut payload = vec![0; length + 1];
            self.0.read_exact(&mut payload).ok()?;
            payload.pop();
            if head[0] != 8 {
                return Some((head[0], payload));
            }
        }
    }

    #[track_caller]
    fn ask(&mut self, payload: &[u8], wanted: [u8; 4]) {
        self.write(1, payload);
        let (_, answer) = self.read().unwrap();
        assert_eq!(answer[..4], wanted, "{}", String::from_utf8_lossy(&answer));
    }

    /// Makes a durable queue with these arguments (name, number), bound to `amq.topic` by `key`.
    pub(crate) fn make_queue(&mut self, name: &str, key: &str, arguments: &[u8]) {
        let short = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        let table = [&(arguments.len() as u32).to_be_bytes(), arguments].concat();
        let declare = [b"\0\x32\0\x0A\0\0".as_slice(), &short(name), &[2], &table].concat();
        self.ask(&declare, [0, 50, 0, 11]);
        let bind =
            [b"\0\x32\0\x14\0\0".as_slice(), &short(name), &short("amq.topic"), &short(key), &[0, 0, 0, 0, 0]].concat();
        self.ask(&bind, [0, 50, 0, 21]);
    }

    /// Takes the next message of a queue away.
    pub(crate) fn take(&mut self, queue: &str) -> Option<Taken> {
        let name = [&[u8::try_from(queue.len()).unwrap()], queue.as_bytes()].concat();
        self.write(1, &[b"\0\x3C\0\x46\0\0".as_slice(), &name, &[1]].concat());
        let (_, got) = self.read().unwrap();
        if got[..4] == [0, 60, 0, 72] {
            return None;
        }
        assert_eq!(got[..4], [0, 60, 0, 71]);
        // Delivery tag, redelivered, exchange, routing key.
        let exchange = usize::from(got[13]);
        let key = 14 + exchange;
        let routing_key = String::from_utf8(got[key + 1..key + 1 + usize::from(got[key])].to_vec()).unwrap();
        let (_, header) = self.read().unwrap();
        let length = u64::from_be_bytes(header[4..12].try_into().unwrap()) as usize;
        let mut body = Vec::new();
        while body.len() < length {
            body.extend(self.read().unwrap().1);
        }
        Some(Taken { properties: header[12..].to_vec(), routing_key, body })
    }
}
