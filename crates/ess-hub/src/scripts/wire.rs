//! What the hub and an evaluation process say to each other: frames of a length and that many bytes, little-endian.
//!
//! Both ends are the same binary, so the form is not versioned; lengths are checked all the same.

use std::sync::Arc;
use std::time::Duration;

use ess_core::script::{Bounds, CODE_ENGINE, Clock, ScriptError};
use ess_core::table::Table;
use ess_core::time::Time;

/// What a process writes first: whatever came before it on the stream is not ours.
pub(super) const GREETING: &[u8; 16] = b"hms-ess-script-1";

/// What the hub wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request<'a> {
    /// Parse this script.
    Check { script: &'a str },
    /// Evaluate this script.
    Evaluate { script: &'a str, input: Option<&'a str>, bindings: Vec<(&'a str, &'a str)>, clock: Clock },
    /// Name the paths of this script that give nothing; the answer is a JSON array.
    Follow { script: &'a str, input: Option<&'a str>, bindings: Vec<(&'a str, &'a str)>, clock: Clock },
    /// Compile this JSON Schema.
    CheckSchema { schema: &'a str },
    /// Check a payload by this JSON Schema; the answer is undefined, or a JSON array of what is wrong.
    Validate { schema: &'a str, payload: &'a str },
}

/// What came out: a JSON text, undefined, or an error.
pub(super) type Answer = Result<Option<String>, ScriptError>;

/// A frame that does not hold what it should.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Writes the bounds, the first frame to a process.
pub(super) fn write_bounds(frame: &mut Vec<u8>, bounds: &Bounds) {
    framed(frame, |body| {
        let time = u64::try_from(bounds.time.as_micros()).unwrap_or(u64::MAX);
        body.extend_from_slice(&time.to_le_bytes());
        for number in [
            bounds.stack_depth,
            bounds.sequence_length_max,
            bounds.script_bytes_max,
            bounds.input_bytes_max,
            bounds.output_bytes_max,
            bounds.memory_bytes_max,
        ] {
            body.extend_from_slice(&(number as u64).to_le_bytes());
        }
    });
}

/// Reads what [`write_bounds`] wrote, without the length.
pub(super) fn read_bounds(body: &[u8]) -> Result<Bounds, Malformed> {
    let mut reader = Reader(body);
    let time = Duration::from_micros(reader.u64()?);
    let mut next = || reader.u64().and_then(|number| usize::try_from(number).map_err(|_| Malformed));
    Ok(Bounds {
        time,
        stack_depth: next()?,
        sequence_length_max: next()?,
        script_bytes_max: next()?,
        input_bytes_max: next()?,
        output_bytes_max: next()?,
        memory_bytes_max: next()?,
    })
}

/// Writes the lookup tables, the second frame to a process.
pub(super) fn write_tables(frame: &mut Vec<u8>, tables: &[Arc<Table>]) {
    framed(frame, |body| {
        body.extend_from_slice(&(tables.len() as u32).to_le_bytes());
        for table in tables {
            write_text(body, &table.name);
            write_text(body, &table.text);
        }
    });
}

/// Reads what [`write_tables`] wrote, without the length: names and JSON texts.
pub(super) fn read_tables(body: &[u8]) -> Result<Vec<(&str, &str)>, Malformed> {
    let mut reader = Reader(body);
    (0..reader.u32()?).map(|_| Ok((reader.text()?, reader.text()?))).collect()
}

/// Writes a request.
pub(super) fn write_request(frame: &mut Vec<u8>, request: &Request) {
    framed(frame, |body| match request {
        Request::Check { script } => {
            body.push(0);
            write_text(body, script);
        }
        Request::CheckSchema { schema } => {
            body.push(3);
            write_text(body, schema);
        }
        Request::Validate { schema, payload } => {
            body.push(4);
            write_text(body, schema);
            write_text(body, payload);
        }
        Request::Evaluate { script, input, bindings, clock } | Request::Follow { script, input, bindings, clock } => {
            body.push(if matches!(request, Request::Follow { .. }) { 2 } else { 1 });
            write_text(body, script);
            body.push(u8::from(input.is_some()));
            write_text(body, input.unwrap_or(""));
            body.push(u8::from(matches!(clock, Clock::Event(_))));
            body.extend_from_slice(&clock.time().as_micros().to_le_bytes());
            body.extend_from_slice(&(bindings.len() as u32).to_le_bytes());
            for (name, value) in bindings {
                write_text(body, name);
                write_text(body, value);
            }
        }
    });
}

/// Reads what [`write_request`] wrote, without the length.
pub(super) fn read_request(body: &[u8]) -> Result<Request<'_>, Malformed> {
    let mut reader = Reader(body);
    match reader.u8()? {
        0 => Ok(Request::Check { script: reader.text()? }),
        kind @ (1 | 2) => {
            let script = reader.text()?;
            let has_input = reader.u8()? == 1;
            let input = Some(reader.text()?).filter(|_| has_input);
            let is_event = reader.u8()? == 1;
            let time = Time::from_micros(reader.u64()?.cast_signed());
            let clock = if is_event { Clock::Event(time) } else { Clock::Free(time) };
            let bindings =
                (0..reader.u32()?).map(|_| Ok((reader.text()?, reader.text()?))).collect::<Result<_, _>>()?;
            Ok(match kind {
                1 => Request::Evaluate { script, input, bindings, clock },
                _ => Request::Follow { script, input, bindings, clock },
            })
        }
        3 => Ok(Request::CheckSchema { schema: reader.text()? }),
        4 => Ok(Request::Validate { schema: reader.text()?, payload: reader.text()? }),
        _ => Err(Malformed),
    }
}

/// Writes an answer.
pub(super) fn write_answer(frame: &mut Vec<u8>, answer: &Answer) {
    framed(frame, |body| match answer {
        Ok(None) => body.push(0),
        Ok(Some(text)) => {
            body.push(1);
            write_text(body, text);
        }
        Err(error) => {
            body.push(2);
            write_text(body, &error.code);
            write_text(body, &error.message);
            body.extend_from_slice(&error.position.map_or(u64::MAX, u64::from).to_le_bytes());
        }
    });
}

/// Says that the next answer is the process' last: an empty frame, which no answer is.
pub(super) fn write_farewell(frame: &mut Vec<u8>) {
    framed(frame, |_| ());
}

/// Reads what [`write_answer`] wrote, without the length.
pub(super) fn read_answer(body: &[u8]) -> Result<Answer, Malformed> {
    let mut reader = Reader(body);
    Ok(match reader.u8()? {
        0 => Ok(None),
        1 => Ok(Some(reader.text()?.to_owned())),
        2 => Err(ScriptError {
            code: reader.text()?.to_owned(),
            message: reader.text()?.to_owned(),
            position: u32::try_from(reader.u64()?).ok(),
        }),
        _ => return Err(Malformed),
    })
}

/// The error for a frame that holds something else.
impl From<Malformed> for ScriptError {
    fn from(_: Malformed) -> Self {
        ScriptError::new(CODE_ENGINE, "the evaluation process was misunderstood")
    }
}

fn framed(frame: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = frame.len();
    frame.extend_from_slice(&[0; 4]);
    write(frame);
    let length = (frame.len() - start - 4) as u32;
    frame[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

fn write_text(body: &mut Vec<u8>, text: &str) {
    body.extend_from_slice(&(text.len() as u32).to_le_bytes());
    body.extend_from_slice(text.as_bytes());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (front, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.bytes(N)?.try_into().map_err(|_| Malformed)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = self.u32()? as usize;
        std::str::from_utf8(self.bytes(length)?).map_err(|_| Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let (script, bindings) = ("a & 'é'", vec![("event", "1"), ("x", "\"y\"")]);
        let clock = Clock::Event(Time::from_micros(-7));
        for request in [
            Request::Evaluate { script, input: Some("{}"), bindings: bindings.clone(), clock },
            Request::Follow { script, input: None, bindings, clock },
            Request::Check { script },
            Request::CheckSchema { schema: "{}" },
            Request::Validate { schema: "{}", payload: "[1]" },
        ] {
            let mut frame = Vec::new();
            write_request(&mut frame, &request);
            assert_eq!(read_request(&frame[4..]).as_ref(), Ok(&request));
            for end in 4..frame.len() {
                assert_eq!(read_request(&frame[4..end]), Err(Malformed));
            }
        }
        let mut frame = Vec::new();
        write_tables(&mut frame, &[Arc::new(Table::new("courts", "[1]").unwrap())]);
        assert_eq!(read_tables(&frame[4..]), Ok(vec![("courts", "[1]")]));
        for answer in [
            Ok(None),
            Ok(Some("{}".to_owned())),
            Err(ScriptError { position: Some(3), ..ScriptError::new("T1003", "no") }),
            Err(ScriptError::new("T1003", "no")),
        ] {
            let mut frame = Vec::new();
            write_answer(&mut frame, &answer);
            assert_eq!(read_answer(&frame[4..]), Ok(answer));
        }
        let mut frame = Vec::new();
        write_bounds(&mut frame, &Bounds::default());
        assert_eq!(read_bounds(&frame[4..]), Ok(Bounds::default()));
    }
}
