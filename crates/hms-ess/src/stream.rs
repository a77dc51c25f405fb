//! The hub's lifecycle stream as a client reads it: server-sent events (WHATWG HTML section 9.2), each a CloudEvent.
//!
//! An event that is not understood is skipped, never an error: a newer hub may say more.

use http_body_util::BodyExt;
use serde_json::Value;

use crate::client::{Client, Opened};
use crate::failure::{Failure, Result};

/// Longest line that is kept; the rest of a longer one is dropped.
const LINE_BYTES_MAX: usize = 1 << 20;

/// The stream, open.
pub(crate) struct Stream {
    opened: Opened,
    text: Vec<u8>,
    block: Block,
}

/// One thing that happened.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Told {
    /// Its number.
    pub(crate) id: String,
    /// Its kind, such as `delivery.acked`.
    pub(crate) kind: String,
    /// The CloudEvent.
    pub(crate) event: Value,
}

#[derive(Debug, Default)]
struct Block {
    id: String,
    kind: String,
    data: String,
}

impl Stream {
    /// Opens the stream; what happens from now on is in it.
    pub(crate) async fn open(client: &Client) -> Result<Self> {
        Ok(Self { opened: client.open("/v1/stream").await?, text: Vec::new(), block: Block::default() })
    }

    /// Ends it; the next one comes from another address, if there is one that answers.
    pub(crate) fn leave(self, client: &Client) {
        client.leave(self.opened.at);
    }

    /// The next thing that happened; `None` when the hub ended the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<Told>> {
        loop {
            while let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                if let Some(told) = self.block.take(line.trim_end_matches(['\n', '\r'])) {
                    return Ok(Some(told));
                }
            }
            if self.text.len() > LINE_BYTES_MAX {
                self.text.clear();
            }
            match self.opened.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => {
                    return Err(Failure::refused(format!("the hub's stream broke off: {error}"))
                        .with_hint("the hub was stopped, or the way to it is broken; run the command again"));
                }
                Some(Ok(frame)) => {
                    if let Some(bytes) = frame.data_ref() {
                        self.text.extend_from_slice(bytes);
                    }
                }
            }
        }
    }
}

impl Block {
    /// Takes a line; an empty one ends the block.
    fn take(&mut self, line: &str) -> Option<Told> {
        if line.is_empty() {
            let block = std::mem::take(self);
            let event = serde_json::from_str(&block.data).ok()?;
            return Some(Told { id: block.id, kind: block.kind, event });
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "id" => value.clone_into(&mut self.id),
            "event" => value.clone_into(&mut self.kind),
            "data" if self.data.is_empty() => self.data.push_str(value),
            "data" => {
                self.data.push('\n');
                self.data.push_str(value);
            }
            _ => {}
        }
        None
    }
}

impl Told {
    /// A member of the CloudEvent's data, or of the event itself.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.event
            .get("data")
            .and_then(|data| data.get(name))
            .or_else(|| self.event.get(name))
            .and_then(Value::as_str)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_ends_with_an_empty_line() {
        let mut block = Block::default();
        for line in [": comment", "id: 7", "event: delivery.acked"] {
            assert_eq!(block.take(line), None);
        }
        assert_eq!(block.take(r#"data: {"data":{"partner":"COURT-CAL"},"time":"t"}"#), None);
        let told = block.take("").unwrap();
        assert_eq!((told.id.as_str(), told.kind.as_str()), ("7", "delivery.acked"));
        assert_eq!((told.text("partner"), told.text("time"), told.text("none")), ("COURT-CAL", "t", ""));
    }

    #[test]
    fn a_block_that_is_no_json_is_skipped() {
        let mut block = Block::default();
        assert_eq!(block.take("data: keep-alive"), None);
        assert_eq!(block.take(""), None);
        assert_eq!(block.take("data: {}"), None);
        assert!(block.take("").is_some());
    }
}
