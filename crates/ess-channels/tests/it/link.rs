//! A way to a server that can be made to fail at any byte: it freezes, is cut, or leads nowhere.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What is wrong with the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Every connection ends, and a new one at once.
    Down,
    /// After so many more bytes of the server nothing comes through, while the connection stays.
    FreezeAfter(i64),
    /// After so many more bytes of the server the connection ends.
    CutAfter(i64),
    /// After so many more bytes of the client nothing more is read from it, and little fits into what lies between.
    DeafAfter(i64),
}

/// What the system keeps of a client's bytes that are not read.
const RECEIVED_BYTES: u32 = 64 << 10;

/// The way; it ends when it is dropped.
pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    fault: watch::Sender<Fault>,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    budget: AtomicI64,
    heard: AtomicI64,
    bytes_said: AtomicUsize,
    accepted: AtomicUsize,
    open: AtomicUsize,
}

impl Link {
    pub(crate) async fn to(server: SocketAddr) -> Link {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(RECEIVED_BYTES).unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let listener = socket.listen(128).unwrap();
        let address = listener.local_addr().unwrap();
        let (fault, faults) = watch::channel(Fault::None);
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        let state = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                state.accepted.fetch_add(1, Ordering::SeqCst);
                let (state, faults) = (Arc::clone(&state), faults.clone());
                open.spawn(async move {
                    state.open.fetch_add(1, Ordering::SeqCst);
                    carry(stream, server, &state, faults).await;
                    state.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Link { address, fault, shared, _tasks: tasks }
    }

    /// From now on this is wrong.
    pub(crate) fn set(&self, fault: Fault) {
        if let Fault::FreezeAfter(bytes) | Fault::CutAfter(bytes) = fault {
            self.shared.budget.store(bytes, Ordering::SeqCst);
        }
        if let Fault::DeafAfter(bytes) = fault {
            self.shared.heard.store(bytes, Ordering::SeqCst);
        }
        self.fault.send_replace(fault);
    }

    /// Whether what a fault lets through of the server has come through.
    // The hub's own tests use it.
    #[allow(dead_code)]
    pub(crate) fn is_spent(&self) -> bool {
        self.shared.budget.load(Ordering::SeqCst) <= 0
    }

    /// Bytes that came from the server so far.
    pub(crate) fn bytes_said(&self) -> usize {
        self.shared.bytes_said.load(Ordering::SeqCst)
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }
}

async fn carry(mut client: TcpStream, server: SocketAddr, shared: &Shared, mut faults: watch::Receiver<Fault>) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        let fault = *faults.borrow_and_update();
        if fault == Fault::Down {
            return;
        }
        let left = shared.budget.load(Ordering::SeqCst);
        let is_spent = matches!(fault, Fault::FreezeAfter(_) | Fault::CutAfter(_)) && left <= 0;
        if is_spent && matches!(fault, Fault::CutAfter(_)) {
            return;
        }
        let room = match fault {
            Fault::FreezeAfter(_) | Fault::CutAfter(_) => usize::try_from(left).unwrap_or(0).min(down.len()).max(1),
            _ => down.len(),
        };
        let is_deaf = matches!(fault, Fault::DeafAfter(_)) && shared.heard.load(Ordering::SeqCst) <= 0;
        tokio::select! {
            read = client.read(&mut up), if !is_deaf => match read {
                Ok(read) if read > 0 => {
                    shared.heard.fetch_sub(read as i64, Ordering::SeqCst);
                    if server.write_all(&up[..read]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
            read = server.read(&mut down[..room]), if !is_spent => match read {
                Ok(read) if read > 0 => {
                    shared.budget.fetch_sub(read as i64, Ordering::SeqCst);
                    shared.bytes_said.fetch_add(read, Ordering::SeqCst);
                    if client.write_all(&down[..read]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
            _ = faults.changed() => {}
        }
    }
}

/// Waits until it is so, within a bound.
pub(crate) async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    wait(what, is_so, Duration::from_secs(20)).await;
}

/// As `wait_until`, for what takes long on a busy machine.
pub(crate) async fn wait_long_until(what: &str, is_so: impl Fn() -> bool) {
    wait(what, is_so, Duration::from_secs(120)).await;
}

async fn wait(what: &str, is_so: impl Fn() -> bool, bound: Duration) {
    let waited = tokio::time::timeout(bound, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited too long until {what}");
}
