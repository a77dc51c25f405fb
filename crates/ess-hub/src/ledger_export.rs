//! The ledger for a file that is checked without this hub: leaves and checkpoints, a page at a time.

use ess_core::ledger::export::{checkpoint_line, head_line};
use ess_core::problem::{Code, Problem};
use ess_store::StoredCheckpoint;

use crate::hub::Hub;
use crate::publish::unavailable;

/// Receipts of a page.
const PAGE: usize = 1_024;

/// An export under way.
#[derive(Debug)]
pub struct LedgerExport {
    head: Option<String>,
    at: u64,
    last: StoredCheckpoint,
}

impl Hub {
    /// Begins an export of the receipts after the first `from`, up to a checkpoint that is made now.
    ///
    /// # Errors
    /// There are not as many, or the store can't be read.
    pub async fn export_ledger(&self, from: u64) -> Result<LedgerExport, Problem> {
        let checkpoint = self.make_checkpoint().await?;
        let last = StoredCheckpoint { size: checkpoint.size, at: checkpoint.at, note: checkpoint.note };
        if from > last.size {
            let detail = format!("the ledger has {} receipts, fewer than the {from} of the export before", last.size);
            return Err(Problem::new(Code::Invalid, detail)
                .with_field("from")
                .with_hint("if the export was whole, the hub's ledger was cut off since: keep both"));
        }
        let before = self.delivery.store.tree_peaks(from).await.map_err(|error| unavailable(&error))?;
        Ok(LedgerExport { head: Some(head_line(self.notary.verifier.name(), &before)), at: from, last })
    }

    /// The next lines, and the export for those after them; `None` at the end.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn next_of_export(&self, mut export: LedgerExport) -> Result<Option<(String, LedgerExport)>, Problem> {
        let (from, to) = (export.at, export.last.size);
        if from == to && export.head.is_none() {
            return Ok(None);
        }
        let mut text = String::new();
        let mut add = |line: &str| {
            text.push_str(line);
            text.push('\n');
        };
        let is_empty = from == to;
        if let Some(head) = export.head.take() {
            add(&head);
        }
        if is_empty {
            add(&checkpoint_line(&export.last.note));
            return Ok(Some((text, export)));
        }
        let count = PAGE.min(usize::try_from(to - from).unwrap_or(PAGE));
        let receipts = self.receipts(from, count).await?;
        if receipts.len() != count {
            let detail = format!("ledger entry {}: missing", from + receipts.len() as u64);
            return Err(Problem::new(Code::Conflict, detail));
        }
        let signed =
            self.delivery.store.checkpoints(Some(from), count + 1).await.map_err(|error| unavailable(&error))?;
        let mut signed = signed.into_iter().peekable();
        for receipt in &receipts {
            add(&receipt.line());
            export.at += 1;
            if let Some(checkpoint) = signed.next_if(|checkpoint| checkpoint.size == export.at) {
                add(&checkpoint_line(&checkpoint.note));
            }
        }
        Ok(Some((text, export)))
    }
}
