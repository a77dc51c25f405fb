//! Every ceiling of the product. Reaching one is a named condition, never a surprise.

use std::time::Duration;

/// Bytes of an event's id.
pub const EVENT_ID_BYTES_MAX: usize = 128;
/// Bytes of a partner's id.
pub const PARTNER_ID_BYTES_MAX: usize = 64;
/// Bytes of a subject.
pub const SUBJECT_BYTES_MAX: usize = 256;
/// Bytes of a glob.
pub const GLOB_BYTES_MAX: usize = 256;
/// Bytes of one published event.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;
/// How deep a payload may nest.
pub const NESTING_MAX: usize = 128;
/// Events that one event may refer to.
pub const REFERENCES_MAX: usize = 100;
/// Bytes of `source`.
pub const SOURCE_BYTES_MAX: usize = 2_048;
/// Bytes of a body that a format writes.
pub const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of a bulk body (NDJSON, CloudEvents batch).
pub const BULK_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Events in a bulk body.
pub const BULK_EVENTS_MAX: usize = 100_000;
/// Bytes of an administrative request's body.
pub const ADMIN_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of a trace header.
pub const TRACE_BYTES_MAX: usize = 256;
/// Bytes of an operator's reason.
pub const REASON_BYTES_MAX: usize = 500;
/// Characters of a partner's words that are kept.
pub const WORDS_CHARS_MAX: usize = 300;
/// Bytes of a script.
pub const SCRIPT_BYTES_MAX: usize = 1024 * 1024;
/// A JSON Schema.
pub const SCHEMA_BYTES_MAX: usize = 256 * 1024;
/// A lookup table, as JSON.
pub const TABLE_BYTES_MAX: usize = 1024 * 1024;
/// All lookup tables together: each evaluation process holds them.
pub const TABLES_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A lookup table's name.
pub const TABLE_NAME_BYTES_MAX: usize = 64;
/// Bytes of a partner's file.
pub const PARTNER_FILE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Fixed headers of a partner.
pub const HEADERS_MAX: usize = 32;
/// Bytes of a header's value.
pub const HEADER_BYTES_MAX: usize = 4_096;
/// Globs of a subscription or a version map.
pub const GLOBS_MAX: usize = 256;
/// Bytes of an address.
pub const URL_BYTES_MAX: usize = 2_048;
/// Legal holds at a time: each event whose time has come is compared with all of them.
pub const HOLDS_MAX: usize = 1_000;
/// The longest that a partner may ask the hub to wait.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);
/// Bytes of the pattern that names a receipt file.
pub const PATTERN_BYTES_MAX: usize = 200;
/// Keys of one host that may be pinned.
pub const HOST_KEYS_MAX: usize = 8;
/// Bytes of a line that pins a host's key.
pub const HOST_KEY_BYTES_MAX: usize = 4_096;
/// Bytes of a topic.
pub const TOPIC_BYTES_MAX: usize = 1_024;
/// Bytes of a client id at a broker.
pub const CLIENT_ID_BYTES_MAX: usize = 128;
/// Bytes of a receipt file, object or message that are read.
pub const RECEIPT_BYTES_MAX: usize = 64 * 1024;
/// Recipients of one mail.
pub const RECIPIENTS_MAX: usize = 20;
/// Characters of an event's content that a mail says in words; the attachment has all of it.
pub const LETTER_CHARS_MAX: usize = 16 * 1024;
/// Characters of a mail's subject line.
pub const SUBJECT_LINE_CHARS_MAX: usize = 150;
/// Attempts at once for one partner.
pub const IN_FLIGHT_MAX: u32 = 1_000;
/// The longest span in a configuration: a century.
pub const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);
