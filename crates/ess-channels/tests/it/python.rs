//! A server of the Python packages that the tests need, as a process of its own on a free loopback port, and what it says
//! that it took. It ends when it is dropped.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// The server.
pub(crate) struct PythonServer {
    pub(crate) address: SocketAddr,
    taken: Arc<Mutex<Vec<Vec<String>>>>,
    child: Child,
}

impl PythonServer {
    /// Starts a script of `servers/`.
    pub(crate) fn start(script: &str) -> PythonServer {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ess-channels/tests/it/servers").join(script);
        let mut child = Command::new(python())
            .arg(file)
            .arg("0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the tests' Python is missing: cargo xtask test makes it");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().expect("the server did not start: are its packages installed?").unwrap();
        let port: u16 = first.strip_prefix("LISTENING ").unwrap().parse().unwrap();
        let taken = Arc::<Mutex<Vec<Vec<String>>>>::default();
        let noted = Arc::clone(&taken);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(words) = line.strip_prefix("TOOK ") {
                    noted.lock().unwrap().push(words.split(' ').map(str::to_owned).collect());
                }
            }
        });
        PythonServer { address: SocketAddr::from(([127, 0, 0, 1], port)), taken, child }
    }

    /// A plain exchange over HTTP: the store believes whoever says a name. It shares no line with the hub's own.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.address);
        let length = body.len();
        stream
            .write_all(format!("{head}authorization: AWS id:x\r\ncontent-length: {length}\r\n\r\n").as_bytes())
            .unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{method} {path}: {}", String::from_utf8_lossy(&answer));
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        answer.split_off(end + 4)
    }

    /// What it took so far: the words of its lines.
    pub(crate) fn taken(&self) -> Vec<Vec<String>> {
        self.taken.lock().unwrap().clone()
    }
}

impl Drop for PythonServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The Python of the tests' own venv, beside what cargo builds.
pub(crate) fn python() -> PathBuf {
    // target/debug/deps/it-0123456789abcdef, target/release/examples/channels_bench
    let this = std::env::current_exe().unwrap();
    this.ancestors().nth(3).unwrap().join("venv/bin/python")
}
