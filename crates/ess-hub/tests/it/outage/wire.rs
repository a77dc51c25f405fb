//! Receivers of HTTP and of HL7 over MLLP that say yes to everything and note what came, in its order.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::town::number_of;

type Taken = Arc<Mutex<Vec<usize>>>;

/// A receiver; it ends when it is dropped.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    taken: Taken,
    _open: JoinSet<()>,
}

impl Receiver {
    /// Of webhooks.
    pub(crate) async fn start() -> Receiver {
        Receiver::serving(http).await
    }

    /// Of HL7.
    pub(crate) async fn of_hl7() -> Receiver {
        Receiver::serving(hl7).await
    }

    async fn serving<F, Fut>(serve: F) -> Receiver
    where
        F: Fn(TcpStream, Taken) -> Fut + Send + 'static,
        Fut: Future<Output = Option<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let taken = Taken::default();
        let noted = Arc::clone(&taken);
        let mut open = JoinSet::new();
        open.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serve(stream, Arc::clone(&noted));
                connections.spawn(async move {
                    serving.await;
                });
            }
        });
        Receiver { address, taken, _open: open }
    }

    /// The numbers of the events that came so far.
    pub(crate) fn taken(&self) -> Vec<usize> {
        self.taken.lock().unwrap().clone()
    }
}

/// Serves until the connection ends.
async fn http(mut stream: TcpStream, taken: Taken) -> Option<()> {
    let mut bytes = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            read_more(&mut stream, &mut bytes).await?;
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap();
        let length: usize = length.trim().parse().unwrap();
        while bytes.len() < end + length {
            read_more(&mut stream, &mut bytes).await?;
        }
        taken.lock().unwrap().push(super::town::number_in(&bytes[end..end + length]));
        bytes.drain(..end + length);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.ok()?;
    }
}

/// The same of MLLP.
async fn hl7(mut stream: TcpStream, taken: Taken) -> Option<()> {
    let mut bytes = Vec::new();
    loop {
        while !bytes.ends_with(b"\x1c\r") {
            read_more(&mut stream, &mut bytes).await?;
        }
        let text = String::from_utf8(std::mem::take(&mut bytes)).unwrap();
        let control_id = text.split('|').nth(9).unwrap();
        taken.lock().unwrap().push(number_of(text.split_once("NTE|").unwrap().1));
        let ack = format!("\x0bMSH|^~\\&|EMR||||20261126||ACK|1|P|2.5.1\rMSA|AA|{control_id}\r\x1c\r");
        stream.write_all(ack.as_bytes()).await.ok()?;
    }
}

async fn read_more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<()> {
    stream.read_buf(bytes).await.ok().filter(|read| *read > 0).map(|_| ())
}
