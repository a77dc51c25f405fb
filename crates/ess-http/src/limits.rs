//! The ceilings of the HTTP side, in one place. What is about events, partners and scripts stands in `ess_core::limits`.

use std::time::Duration;

/// Body of a request that changes something small.
pub(crate) const SMALL_BODY_BYTES_MAX: usize = 64 * 1024;
/// A mail in which a mail server says what became of another one.
pub(crate) const BOUNCE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Request line and header fields together; hyper's buffer.
pub(crate) const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Bodies that are being read at once, beyond what fits the small ones.
pub(crate) const BODIES_BYTES_MAX: usize = 256 * 1024 * 1024;
/// From this size on a body counts against `BODIES_BYTES_MAX`.
pub(crate) const BODY_COUNTED_FROM_BYTES: usize = 64 * 1024;
/// What a body may take at any size, before its rate counts.
pub(crate) const BODY_GRACE: Duration = Duration::from_secs(20);
/// What a body must bring per second once the grace is over.
pub(crate) const BODY_RATE_MIN_BYTES_PER_S: u64 = 16 * 1024;
/// Items of one page.
pub(crate) const PAGE_ITEMS_MAX: u32 = 1_000;
/// Items of one page unless asked otherwise.
pub(crate) const PAGE_ITEMS_DEFAULT: u32 = 100;
/// A cursor or a name in a query.
pub(crate) const QUERY_VALUE_BYTES_MAX: usize = 512;
/// Longest `?wait=`.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);
/// Messages of one answer of an inbox.
pub(crate) const INBOX_ITEMS_MAX: u64 = 100;
/// Messages of one answer of an inbox unless asked otherwise.
pub(crate) const INBOX_ITEMS_DEFAULT: u64 = 16;
/// Lines of a bulk body that are on their way to the log at once.
pub(crate) const BULK_AT_ONCE: usize = 256;
/// An `x-request-id` of the caller's own.
pub(crate) const REQUEST_ID_BYTES_MAX: usize = 64;
/// Quiet span after which the stream says that it is alive.
pub(crate) const STREAM_HEARTBEAT: Duration = Duration::from_secs(15);
/// Examples of one bridge.
pub(crate) const EXAMPLES_MAX: usize = 1_000;
/// Partners that one replay may name.
pub(crate) const REPLAY_PARTNERS_MAX: usize = 10_000;
/// A token's note.
pub(crate) const NOTE_BYTES_MAX: usize = 200;
/// Refused tokens of one address in a minute before it is told to wait.
pub(crate) const REFUSED_TOKENS_MAX: u32 = 120;
/// Addresses whose refused tokens are counted.
pub(crate) const REFUSED_PEERS_MAX: usize = 4_096;
/// How long a refused sender may go on sending before the connection ends, so that it can read the answer.
pub(crate) const LINGER: Duration = Duration::from_secs(2);
/// Open streams of changes to pages of the dashboard.
pub(crate) const DASHBOARD_STREAMS_MAX: usize = 1_024;
/// Rows of one page of the dashboard.
pub(crate) const DASHBOARD_ROWS: usize = 50;
/// Bytes of the form behind the link in a mail: a word and a reason.
pub(crate) const ACK_FORM_BYTES_MAX: usize = 8 * 1024;
