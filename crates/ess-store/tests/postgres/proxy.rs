//! A connection to the server that is cut just before or just after a commit is made.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// When the next commit's connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cut {
    Never,
    /// The server never hears of it.
    Before,
    /// The server makes it, and its answer is lost.
    After,
}

/// Between a store and a server.
pub(crate) struct Proxy {
    port: u16,
    cut: Arc<AtomicU8>,
}

impl Proxy {
    pub(crate) fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let cut = Arc::new(AtomicU8::new(Cut::Never as u8));
        let seen = cut.clone();
        // Ends with the process.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", server)).unwrap());
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let seen = seen.clone();
                std::thread::spawn(move || forward(client, server, &seen));
                std::thread::spawn(move || copy(back.0, back.1));
            }
        });
        Self { port, cut }
    }

    /// Cuts once.
    pub(crate) fn cut_at_next_commit(&self, cut: Cut) {
        self.cut.store(cut as u8, Ordering::SeqCst);
    }

    /// The same database, by this way.
    pub(crate) fn url(&self, url: &str) -> String {
        let (before, database) = url.rsplit_once('/').unwrap();
        let user = before.rsplit_once(':').unwrap().0;
        format!("{user}:{}/{database}", self.port)
    }
}

/// From the store to the server; a commit is a message of its own.
fn forward(mut client: TcpStream, mut server: TcpStream, cut: &AtomicU8) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = client.read(&mut bytes) {
        let is_commit = bytes[..count].windows(6).any(|window| window == b"COMMIT");
        let due = if is_commit { cut.swap(Cut::Never as u8, Ordering::SeqCst) } else { Cut::Never as u8 };
        if due == Cut::Before as u8 {
            break;
        }
        if due == Cut::After as u8 {
            // Nobody hears the answer any more; the server makes the commit all the same.
            drop(client.shutdown(Shutdown::Both));
            drop(server.write_all(&bytes[..count]));
            drop(server.shutdown(Shutdown::Write));
            return;
        }
        if server.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    drop((client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both)));
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    drop(std::io::copy(&mut from, &mut to));
    drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
}
