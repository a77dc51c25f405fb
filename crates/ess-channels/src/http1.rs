//! HTTP/1.1 (RFC 9112) as far as one POST needs it: writing a request's head, reading an answer's head and body.
//!
//! Nothing here does I/O. What a partner sends is taken in any slices, is bounded by its callers, and never panics.
//! hyper is not used for this: `examples/post_bench.rs` shows a POST at about 0.7 of hyper's cost, as one exchange at a
//! time needs no channels, no wake-ups across tasks and no header maps, and an idle connection needs no buffer.

use std::mem::MaybeUninit;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

use crate::limits::{ANSWER_FIELDS_MAX, RETRY_AFTER_MAX};

/// What is wrong with an answer; words for a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub &'static str);

/// Whether `name: value` can be sent: a token and visible text, so that no field can smuggle in another.
pub(crate) fn is_field(name: &str, value: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let is_text = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
    !name.is_empty() && name.bytes().all(is_token) && value.bytes().all(is_text)
}

/// Appends `name: value` to a head. Both were checked by [`is_field`].
pub(crate) fn push_field(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}

/// What an answer's head says that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub status: u16,
    pub framing: Framing,
    pub retry_after: Option<Duration>,
    /// The connection may be used again once the body has been read to its end.
    pub is_kept_alive: bool,
    /// Length of the head itself.
    pub bytes: usize,
}

impl Head {
    /// An interim answer (1xx), after which the final one follows. 101 is final: nobody asked for an upgrade.
    pub(crate) fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }
}

/// Reads a head that stands complete at the beginning of `bytes`; `None` while its end has not come.
///
/// `searched` is how many of the bytes were there at the last call, so that a slow head is not read again and again.
pub(crate) fn parse_head(bytes: &[u8], searched: usize, clock: fn() -> Timestamp) -> Result<Option<Head>, Malformed> {
    let beginning = b"HTTP/1.";
    if !bytes.iter().zip(beginning).all(|(byte, expected)| byte == expected) {
        return Err(Malformed("the answer is not http/1.1"));
    }
    let fresh = &bytes[searched.saturating_sub(3).min(bytes.len())..];
    let has_end = fresh.windows(2).any(|two| two == b"\n\n") || fresh.windows(3).any(|three| three == b"\n\r\n");
    if !has_end {
        return Ok(None);
    }
    let mut fields = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; ANSWER_FIELDS_MAX];
    let mut answer = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut answer, bytes, &mut fields)
        .map_err(|error| match error {
            httparse::Error::TooManyHeaders => Malformed("the answer has too many header fields"),
            _ => Malformed("the answer's head is malformed"),
        })?;
    let httparse::Status::Complete(length) = parsed else {
        return Ok(None);
    };
    let (Some(status), Some(version)) = (answer.code, answer.version) else {
        return Err(Malformed("the answer's head is malformed"));
    };
    if !(100..=599).contains(&status) {
        return Err(Malformed("the answer's status is not one of http"));
    }
    read_fields(answer.headers, Start { status, version }, length, clock).map(Some)
}

struct Start {
    status: u16,
    version: u8,
}

fn read_fields(
    fields: &[httparse::Header<'_>],
    start: Start,
    bytes: usize,
    clock: fn() -> Timestamp,
) -> Result<Head, Malformed> {
    let (mut length, mut coding, mut says_close) = (None, None, false);
    let (mut retry_after, mut date) = (None, None);
    for field in fields {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        // The lengths differ, so most fields are told apart by that alone.
        if is("content-length") {
            let stated = parse_length(field.value)?;
            if length.is_some_and(|known| known != stated) {
                return Err(Malformed("the answer states two lengths"));
            }
            length = Some(stated);
        } else if is("transfer-encoding") {
            coding = Some(field.value);
        } else if is("connection") {
            says_close |=
                field.value.split(|byte| *byte == b',').any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"));
        } else if is("retry-after") {
            retry_after = std::str::from_utf8(field.value).ok();
        } else if is("date") {
            date = std::str::from_utf8(field.value).ok();
        }
    }
    let has_no_body = start.status < 200 || start.status == 204 || start.status == 304;
    let framing = match (coding, length) {
        _ if has_no_body => Framing::Length(0),
        // RFC 9112 section 6.3: a coding overrides a length; whether the last of them is chunked decides.
        (Some(coding), _) if is_chunked(coding) => Framing::Chunked(Chunks::default()),
        (Some(_), _) | (None, None) => Framing::UntilClose,
        (None, Some(length)) => Framing::Length(length),
    };
    let is_clear = !(coding.is_some() && length.is_some());
    Ok(Head {
        status: start.status,
        is_kept_alive: start.version == 1
            && start.status != 101
            && !says_close
            && is_clear
            && framing != Framing::UntilClose,
        framing,
        retry_after: retry_after.and_then(|value| parse_retry_after(value, date, clock)),
        bytes,
    })
}

/// Digits, or the same digits several times in a list (RFC 9110 section 8.6).
fn parse_length(value: &[u8]) -> Result<u64, Malformed> {
    let malformed = Malformed("the answer's length is not a number");
    let mut length = None;
    for part in value.split(|byte| *byte == b',') {
        let part = part.trim_ascii();
        if part.is_empty() || !part.iter().all(u8::is_ascii_digit) {
            return Err(malformed);
        }
        let text = std::str::from_utf8(part).map_err(|_| malformed)?;
        let number: u64 = text.parse().map_err(|_| malformed)?;
        if length.is_some_and(|known| known != number) {
            return Err(Malformed("the answer states two lengths"));
        }
        length = Some(number);
    }
    length.ok_or(malformed)
}

fn is_chunked(coding: &[u8]) -> bool {
    let last = coding.rsplit(|byte| *byte == b',').next().unwrap_or_default();
    last.trim_ascii().eq_ignore_ascii_case(b"chunked")
}

/// `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date measured against the answer's own date.
fn parse_retry_after(value: &str, date: Option<&str>, clock: fn() -> Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a u64 holds is as good as for ever.
        let seconds = value.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    }
    let then = parse_date(value)?;
    let measure = date.and_then(parse_date).unwrap_or_else(clock);
    let wait = Duration::try_from(then.duration_since(measure)).unwrap_or(Duration::ZERO);
    Some(wait.min(RETRY_AFTER_MAX))
}

fn parse_date(text: &str) -> Option<Timestamp> {
    static PARSER: DateTimeParser = DateTimeParser::new();
    PARSER.parse_timestamp(text).ok()
}

/// Where an answer's body ends, and how far it has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Framing {
    /// After so many more bytes.
    Length(u64),
    /// After the last chunk.
    Chunked(Chunks),
    /// With the connection.
    UntilClose,
}

impl Framing {
    /// Whether the body has come to its end.
    pub(crate) fn is_done(&self) -> bool {
        match self {
            Framing::Length(left) => *left == 0,
            Framing::Chunked(chunks) => chunks.step == Step::Done,
            Framing::UntilClose => false,
        }
    }

    /// Appends the body bytes in `input` to `body`, which grows to `bytes_max` at most; what is beyond is left out.
    /// Returns how much of `input` was used: less than all of it once the body is done or full.
    pub(crate) fn decode(&mut self, input: &[u8], body: &mut Vec<u8>, bytes_max: usize) -> Result<usize, Malformed> {
        let room = bytes_max.saturating_sub(body.len());
        match self {
            Framing::Length(left) => {
                let taken = input.len().min(room).min(usize::try_from(*left).unwrap_or(usize::MAX));
                body.extend_from_slice(&input[..taken]);
                *left -= taken as u64;
                Ok(taken)
            }
            Framing::UntilClose => {
                let taken = input.len().min(room);
                body.extend_from_slice(&input[..taken]);
                Ok(taken)
            }
            Framing::Chunked(chunks) => chunks.decode(input, body, bytes_max),
        }
    }
}

/// A chunked body under way (RFC 9112 section 7.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Chunks {
    step: Step,
    /// Bytes left of the chunk.
    left: u64,
}

/// What comes next in a chunked body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Step {
    /// The first digit of a size.
    #[default]
    SizeBegin,
    /// More of a size.
    Size,
    /// The rest of a size line.
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The first byte of a trailer line, or of the end.
    TrailerBegin,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

impl Chunks {
    fn decode(&mut self, input: &[u8], body: &mut Vec<u8>, bytes_max: usize) -> Result<usize, Malformed> {
        let mut used = 0;
        while used < input.len() && self.step != Step::Done {
            if self.step == Step::Data {
                let room = bytes_max.saturating_sub(body.len());
                if room == 0 {
                    break;
                }
                let left = usize::try_from(self.left).unwrap_or(usize::MAX);
                let taken = left.min(room).min(input.len() - used);
                body.extend_from_slice(&input[used..used + taken]);
                used += taken;
                self.left -= taken as u64;
                if self.left == 0 {
                    self.step = Step::DataCr;
                }
                continue;
            }
            self.step = self.next(input[used])?;
            used += 1;
        }
        Ok(used)
    }

    fn next(&mut self, byte: u8) -> Result<Step, Malformed> {
        let malformed = Err(Malformed("the answer's chunks are malformed"));
        Ok(match (self.step, byte) {
            (Step::SizeBegin | Step::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if self.left >> 60 != 0 {
                    return malformed;
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                self.left = self.left << 4 | u64::from(digit);
                Step::Size
            }
            (Step::Size, b';' | b' ' | b'\t') => Step::Extension,
            (Step::Size | Step::Extension, b'\r') => Step::SizeLf,
            (Step::SizeLf, b'\n') if self.left == 0 => Step::TrailerBegin,
            (Step::SizeLf, b'\n') => Step::Data,
            (Step::DataCr, b'\r') => Step::DataLf,
            (Step::DataLf, b'\n') => Step::SizeBegin,
            (Step::TrailerBegin, b'\r') => Step::EndLf,
            (Step::Trailer, b'\r') => Step::TrailerLf,
            (Step::TrailerLf, b'\n') => Step::TrailerBegin,
            (Step::EndLf, b'\n') => Step::Done,
            (Step::Extension, byte) if byte != b'\n' => Step::Extension,
            (Step::TrailerBegin | Step::Trailer, byte) if byte != b'\n' => Step::Trailer,
            _ => return malformed,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    /// Decodes `input` in slices of `step` bytes, as the network might bring it.
    fn decode(mut framing: Framing, input: &[u8], step: usize) -> Result<(Vec<u8>, bool), Malformed> {
        let mut body = Vec::new();
        for slice in input.chunks(step) {
            let used = framing.decode(slice, &mut body, 1000)?;
            if used < slice.len() {
                break;
            }
        }
        Ok((body, framing.is_done()))
    }

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let text = b"HTTP/1.1 202 Accepted\r\nContent-Length: 5, 5\r\nRetry-After: 7\r\n\r\nhello";
        let head = parse_head(text, 0, now).unwrap().unwrap();
        let expected = Head {
            status: 202,
            framing: Framing::Length(5),
            retry_after: Some(Duration::from_secs(7)),
            is_kept_alive: true,
            bytes: text.len() - 5,
        };
        assert_eq!(head, expected);
        for end in 0..head.bytes {
            assert_eq!(parse_head(&text[..end], end.saturating_sub(1), now), Ok(None), "{end}");
        }
    }

    #[test]
    fn fields_that_would_smuggle_are_not_fields() {
        for (name, value) in [
            ("", "x"),
            ("a b", "x"),
            ("a:", "x"),
            ("a\r\n", "x"),
            ("ä", "x"),
            ("a", "x\r\ny: z"),
            ("a", "\0"),
            ("a", "\x7f"),
        ] {
            assert!(!is_field(name, value), "{name:?}: {value:?}");
        }
        assert!(is_field("X-Agency", "Büro\t7"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_panic(bytes: Vec<u8>, beginning: bool, searched in 0usize..64) {
            let mut text = if beginning { b"HTTP/1.1 200 ".to_vec() } else { Vec::new() };
            text.extend(bytes);
            let _ = parse_head(&text, searched, now);
        }

        #[test]
        fn no_chunks_make_a_panic_or_too_much(input: Vec<u8>, step in 1usize..9) {
            if let Ok((body, _)) = decode(Framing::Chunked(Chunks::default()), &input, step) {
                prop_assert!(body.len() <= input.len());
            }
        }

        #[test]
        fn chunks_come_out_as_they_went_in(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..9), step in 1usize..50) {
            let mut input = Vec::new();
            for chunk in &chunks {
                input.extend_from_slice(format!("{:X};e=1\r\n", chunk.len()).as_bytes());
                input.extend_from_slice(chunk);
                input.extend_from_slice(b"\r\n");
            }
            input.extend_from_slice(b"0\r\nx-trailer: 1\r\n\r\n");
            let decoded = decode(Framing::Chunked(Chunks::default()), &input, step);
            prop_assert_eq!(decoded, Ok((chunks.concat(), true)));
        }

        #[test]
        fn a_length_takes_just_its_bytes(length in 0u64..200, input in prop::collection::vec(any::<u8>(), 0..300), step in 1usize..50) {
            let (body, is_done) = decode(Framing::Length(length), &input, step).unwrap();
            let expected = input.len().min(usize::try_from(length).unwrap());
            prop_assert_eq!(&body[..], &input[..expected]);
            prop_assert_eq!(is_done, expected as u64 == length);
        }
    }
}
