//! The plain clients, and a receiver of HL7 over MLLP for both sides.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ess_core::message::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::python::python as interpreter;
use crate::sshd::Sshd;

const BODY_BYTES: usize = 460;

/// A receiver that says AA to everything, in a thread of its own.
pub(crate) async fn receiver() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve(listener));
    });
    address
}

async fn serve(listener: std::net::TcpListener) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
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
}

/// As many connections as messages at once, each with one message under way, as MLLP has it; an answer must be AA for the
/// message that was sent.
pub(crate) async fn mllp(receiver: SocketAddr, messages: &Arc<Vec<Message>>, at_once: usize) -> Duration {
    let began = Instant::now();
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..at_once {
        let messages = Arc::clone(messages);
        lanes.spawn(async move {
            let mut stream = TcpStream::connect(receiver).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut bytes = Vec::new();
            for message in messages.iter().skip(lane).step_by(at_once) {
                let frame = [b"\x0b", &message.body[..], b"\x1c\r"].concat();
                stream.write_all(&frame).await.unwrap();
                bytes.clear();
                while !bytes.ends_with(b"\x1c\r") {
                    assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
                }
                let answer = String::from_utf8_lossy(&bytes);
                let mut fields = answer.split_once("\rMSA|").unwrap().1.split(['|', '\r']);
                let id = message.id.strip_prefix("msg_");
                assert!(fields.next() == Some("AA") && fields.next() == id, "{answer}");
            }
        });
    }
    lanes.join_all().await;
    began.elapsed()
}

pub(crate) fn mosquitto_pub(broker: SocketAddr, count: usize) -> Duration {
    let lines: String = (0..count).map(|_| format!("{}\n", "x".repeat(BODY_BYTES))).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines).unwrap();
    timed(
        Command::new("mosquitto_pub")
            .args(["-V", "mqttv5", "-q", "1", "-l", "-t", "rules/RULE", "-p", &broker.port().to_string()])
            .stdin(std::fs::File::open(file.path()).unwrap()),
    )
}

/// A client of Python's says itself how long it took, without the interpreter's start.
pub(crate) fn python(word: &str, address: &str, numbers: Range<usize>, at_once: usize) -> Duration {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/channels_bench/plain.py");
    let (count, first) = (numbers.len().to_string(), numbers.start.to_string());
    let output = Command::new(interpreter())
        .arg(script)
        .args([word, address, &count, &at_once.to_string(), &first])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{word}");
    Duration::from_secs_f64(String::from_utf8(output.stdout).unwrap().trim().parse().unwrap())
}

/// Copies as many files as there are numbers.
pub(crate) fn cp(dir: &Path, numbers: Range<usize>) -> Duration {
    let from = files(&numbers);
    let to = dir.join(format!("cp-{}", numbers.start));
    std::fs::create_dir(&to).unwrap();
    timed(Command::new("cp").arg("-r").arg(from.path()).arg(to))
}

/// So many sessions at once, each with a batch: put beside, then rename.
pub(crate) fn sftp(sshd: &Sshd, numbers: Range<usize>, at_once: usize) -> Duration {
    let from = files(&numbers);
    let key = from.path().join("key");
    sshd.write_key(&key);
    let inbox = sshd.inbox.display();
    for lane in 0..at_once {
        let mut batch = String::new();
        for number in numbers.clone().skip(lane).step_by(at_once) {
            let (local, remote) = (from.path().join(number.to_string()), format!("{inbox}/plain-{number}"));
            batch.push_str(&format!("put {} {remote}.part\nrename {remote}.part {remote}\n", local.display()));
        }
        std::fs::write(from.path().join(format!("batch{lane}")), batch).unwrap();
    }
    let began = Instant::now();
    let sessions: Vec<_> = (0..at_once)
        .map(|lane| {
            Command::new("sftp")
                .arg("-b")
                .arg(from.path().join(format!("batch{lane}")))
                .args(["-q", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-i"])
                .arg(&key)
                .args(["-P", &sshd.address.port().to_string()])
                .arg(format!("{}@127.0.0.1", sshd.user))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut session in sessions {
        assert!(session.wait().unwrap().success(), "sftp -b");
    }
    began.elapsed()
}

fn files(numbers: &Range<usize>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for number in numbers.clone() {
        std::fs::write(dir.path().join(number.to_string()), "x".repeat(BODY_BYTES)).unwrap();
    }
    dir
}

fn timed(command: &mut Command) -> Duration {
    let began = Instant::now();
    assert!(command.status().unwrap().success(), "{command:?}");
    began.elapsed()
}
