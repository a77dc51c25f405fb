//! Mosquitto, the real broker, on a free loopback port, and its own client as the partner.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The broker; stopped when dropped.
pub(crate) struct Mosquitto {
    pub(crate) address: SocketAddr,
    dir: tempfile::TempDir,
    child: Child,
}

/// A message that the partner got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) topic: String,
    pub(crate) is_retained: bool,
    pub(crate) response_topic: String,
    pub(crate) correlation: String,
    pub(crate) properties: String,
    pub(crate) payload: String,
}

/// A partner that subscribes; ends when dropped.
pub(crate) struct Listening {
    child: Child,
    got: Arc<Mutex<Vec<Got>>>,
    is_subscribed: Arc<Mutex<bool>>,
}

impl Mosquitto {
    /// A broker that lets everybody in.
    pub(crate) fn start() -> Mosquitto {
        Mosquitto::with("allow_anonymous true\n")
    }

    /// A broker with these lines in its configuration; `DIR` in them is its directory.
    pub(crate) fn with(lines: &str) -> Mosquitto {
        Mosquitto::prepared(lines, |_| ())
    }

    /// The same; `prepare` puts files into its directory first.
    pub(crate) fn prepared(lines: &str, prepare: impl FnOnce(&std::path::Path)) -> Mosquitto {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let place = dir.path().display().to_string();
        // As root it would change to a user who may not read the directory.
        let config = format!("listener {} 127.0.0.1\nuser root\n{}", address.port(), lines.replace("DIR", &place));
        std::fs::write(dir.path().join("mosquitto.conf"), config).unwrap();
        let child = run(&dir);
        let broker = Mosquitto { address, dir, child };
        broker.wait();
        broker
    }

    pub(crate) fn url(&self, topic: &str) -> String {
        format!("mqtt://{}/{topic}", self.address)
    }

    /// Ends the broker without a word.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again under the same address.
    pub(crate) fn restart(&mut self) {
        self.child = run(&self.dir);
        self.wait();
    }

    fn wait(&self) {
        wait_for("the broker", || TcpStream::connect(self.address).is_ok());
    }

    /// Publishes as the partner does.
    pub(crate) fn publish(&self, topic: &str, more: &[&str]) {
        publish(self.address, topic, more);
    }

    /// Subscribes as the partner does, and waits until that is so.
    pub(crate) fn subscribe(&self, filter: &str, more: &[&str]) -> Listening {
        let port = self.address.port().to_string();
        let mut child = Command::new("stdbuf")
            .args(["-oL", "mosquitto_sub", "-d", "-h", "127.0.0.1", "-p", &port, "-q", "1", "-V", "mqttv5"])
            .args(["-t", filter, "-F", "MSG\t%t\t%r\t%R\t%D\t%P\t%p"])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .expect("mosquitto_sub is missing: apt-get install mosquitto-clients");
        let (got, is_subscribed) = (Arc::<Mutex<Vec<Got>>>::default(), Arc::<Mutex<bool>>::default());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (kept, noted) = (Arc::clone(&got), Arc::clone(&is_subscribed));
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.starts_with("Subscribed") {
                    *noted.lock().unwrap() = true;
                }
                if let ["MSG", topic, retained, response_topic, correlation, properties, payload] =
                    line.split('\t').collect::<Vec<_>>()[..]
                {
                    kept.lock().unwrap().push(Got {
                        topic: topic.to_owned(),
                        is_retained: retained == "1",
                        response_topic: response_topic.to_owned(),
                        correlation: correlation.to_owned(),
                        properties: properties.to_owned(),
                        payload: payload.to_owned(),
                    });
                }
            }
        });
        let listening = Listening { child, got, is_subscribed };
        wait_for("the subscription", || *listening.is_subscribed.lock().unwrap());
        listening
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Listening {
    /// What came so far.
    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// What came, once it is so much.
    pub(crate) fn wait(&self, count: usize) -> Vec<Got> {
        wait_for("the messages", || self.got().len() >= count);
        self.got()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(dir: &tempfile::TempDir) -> Child {
    let program =
        if std::path::Path::new("/usr/sbin/mosquitto").exists() { "/usr/sbin/mosquitto" } else { "mosquitto" };
    Command::new(program)
        .arg("-c")
        .arg(dir.path().join("mosquitto.conf"))
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("mosquitto is missing: apt-get install mosquitto")
}

/// Publishes as the partner does.
pub(crate) fn publish(broker: SocketAddr, topic: &str, more: &[&str]) {
    let status = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &broker.port().to_string(), "-q", "1", "-t", topic])
        .args(more)
        .status()
        .expect("mosquitto_pub is missing: apt-get install mosquitto-clients");
    assert!(status.success());
}

/// Looks until it is so, within a bound.
pub(crate) fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "waited 20 s for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
