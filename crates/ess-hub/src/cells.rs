//! Events in memory with what was made of them: one conversion per version, one body per shape, however many partners want it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use ess_core::event::Event;
use ess_core::id::{Digest, PartnerNo, Seq, Version};
use ess_core::partner::Format;
use tokio::sync::OnceCell;

/// Bytes of events and bodies that stay in memory; older ones are read back from the store.
const CELL_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why nothing can be sent, and the command that mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Why.
    pub reason: String,
    /// What to run.
    pub mend: String,
}

/// A payload in a partner's version, and the scripts that made it.
#[derive(Debug, Clone)]
pub struct Converted {
    /// JSON text.
    pub payload: Arc<str>,
    /// Digests, in order.
    pub scripts: Arc<[Digest]>,
}

/// The bytes that every partner of one shape gets.
#[derive(Debug)]
pub struct Body {
    /// The bytes.
    pub bytes: Bytes,
    /// SHA-256 of them.
    pub digest: Digest,
    /// Media type.
    pub content_type: String,
    /// File name extension.
    pub extension: &'static str,
    /// Header fields that the format asks for.
    pub headers: Vec<(String, String)>,
    /// Bridges' and adapter's scripts.
    pub scripts: Arc<[Digest]>,
    /// The Ed25519 signature of the last second: it costs 15 µs and the partners of a round share it.
    pub signature: Mutex<Option<(String, i64, Arc<str>)>>,
}

/// What makes bodies differ.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shape {
    /// The partner's version.
    pub version: Version,
    /// The generation of the bridges.
    pub generation: u64,
    /// Its adapter.
    pub adapter: Option<Digest>,
    /// Its format.
    pub format: Format,
    /// Set where the bytes are for one partner only.
    pub partner: Option<PartnerNo>,
    /// Marked as a replay.
    pub replay: bool,
}

/// What was made once, or the one attempt under way to make it.
pub type Once<T> = Arc<OnceCell<Result<T, Blocked>>>;

/// One event with its conversions and bodies.
#[derive(Debug)]
pub struct Cell {
    /// The event.
    pub event: Arc<Event>,
    /// Guards the two maps only; never held while a script runs.
    made: Mutex<Made>,
}

#[derive(Debug, Default)]
struct Made {
    payloads: HashMap<(Version, u64), Once<Converted>>,
    bodies: Vec<(Shape, Once<Arc<Body>>)>,
}

impl Cell {
    /// A cell with nothing made yet.
    #[must_use]
    pub fn new(event: Arc<Event>) -> Arc<Self> {
        Arc::new(Self { event, made: Mutex::default() })
    }

    /// The place of the payload in `version`, as the bridges of this generation make it.
    pub fn payload(&self, version: Version, generation: u64) -> Once<Converted> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.payloads.entry((version, generation)).or_default().clone()
    }

    /// The place of the body in `shape`.
    pub fn body(&self, shape: &Shape) -> Once<Arc<Body>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, once)) = made.bodies.iter().find(|(known, _)| known == shape) {
            return once.clone();
        }
        let once = Once::default();
        if shape.partner.is_none() {
            made.bodies.push((shape.clone(), once.clone()));
        }
        once
    }

    /// Forgets what was made, because bridges or scripts changed.
    fn forget(&self) {
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = Made::default();
    }

    fn weight(&self) -> usize {
        // The payload twice for a body beside it, and what the maps take.
        512 + 2 * self.event.content.payload.get().len()
    }
}

/// The newest events, bounded by bytes.
#[derive(Debug, Default)]
pub struct Cells {
    /// Guards the map; held for look-ups only.
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    cells: HashMap<Seq, Arc<Cell>>,
    order: VecDeque<Seq>,
    bytes: usize,
    /// Redacted since the start: whoever read one just before does not bring it back.
    redacted: HashSet<Seq>,
}

impl Cells {
    /// The cell of an event, if it is in memory.
    pub fn get(&self, seq: Seq) -> Option<Arc<Cell>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).cells.get(&seq).cloned()
    }

    /// The cell of this event; made when it is not there.
    pub fn keep(&self, event: &Arc<Event>) -> Arc<Cell> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = kept.cells.get(&event.seq) {
            return cell.clone();
        }
        let cell = Cell::new(event.clone());
        if kept.redacted.contains(&event.seq) {
            return cell;
        }
        kept.bytes += cell.weight();
        kept.cells.insert(event.seq, cell.clone());
        kept.order.push_back(event.seq);
        while kept.bytes > CELL_BYTES_MAX && kept.order.len() > 1 {
            let Some(oldest) = kept.order.pop_front() else { break };
            if let Some(gone) = kept.cells.remove(&oldest) {
                kept.bytes -= gone.weight();
            }
        }
        cell
    }

    /// Forgets an event whose payload is gone, with what was made of it.
    pub fn drop_expired(&self, seq: Seq) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gone) = kept.cells.remove(&seq) {
            kept.bytes -= gone.weight();
            kept.order.retain(|other| *other != seq);
        }
    }

    /// The same, and it does not come back.
    pub fn drop_redacted(&self, seq: Seq) {
        self.drop_expired(seq);
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).redacted.insert(seq);
    }

    /// Forgets every conversion, because bridges changed.
    pub fn forget_conversions(&self) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for cell in kept.cells.values() {
            cell.forget();
        }
    }
}
