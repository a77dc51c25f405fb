//! The verbs of the NATS client protocol that publishing to JetStream takes: what is written, and what may come back.
//!
//! Source: NATS client protocol (docs.nats.io, reference, protocols) and ADR-4 (headers). Nothing that a server sends is
//! kept beyond its ceiling, and no value that is written can end a line early.

use bytes::{Buf as _, BytesMut};
use ess_core::message::Message;
use serde_json::{Value, json};

use crate::limits::ANSWER_BODY_BYTES_MAX;

/// Why what a server sent is not of the protocol.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub &'static str);

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// What it can and wants.
    Info(Terms),
    /// A message to the inbox.
    Message(Reply),
    /// A question for a sign of life.
    Ping,
    /// The answer to ours.
    Pong,
    /// A confirmation that nobody asked for.
    Ok,
    /// An error, in its words.
    Error(String),
}

/// What a server can and wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Bytes of a message, headers included.
    pub payload_bytes_max: Option<u64>,
    /// It takes headers.
    pub has_headers: bool,
    /// It goes on with TLS only.
    pub needs_tls: bool,
    /// It can go on with TLS.
    pub has_tls: bool,
}

/// A message to the inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Which of the inbox's subjects.
    pub subject: String,
    /// The status of its headers; 503 where nobody listens.
    pub status: Option<u16>,
    /// Its body.
    pub payload: Vec<u8>,
}

/// Who logs in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Login<'a> {
    /// Nobody, or the client certificate.
    None,
    /// A user.
    User(&'a str, &'a str),
    /// Whoever has the token.
    Token(&'a str),
}

/// CONNECT, the subscription to the inbox, and a PING whose answer says that both were taken.
pub(crate) fn log_in(login: Login<'_>, inbox: &str) -> String {
    let mut connect = json!({
        "verbose": false, "pedantic": false, "tls_required": false, "name": "hms-ess", "lang": "rust",
        "version": env!("CARGO_PKG_VERSION"), "protocol": 1, "echo": false, "headers": true, "no_responders": true,
    });
    match login {
        Login::None => {}
        Login::User(user, password) => {
            connect["user"] = json!(user);
            connect["pass"] = json!(password);
        }
        Login::Token(token) => connect["auth_token"] = json!(token),
    }
    format!("CONNECT {connect}\r\nSUB {inbox}.* 1\r\nPING\r\n")
}

/// HPUB: a message with its headers and the subject of its answer.
pub(crate) fn publish(subject: &str, reply_to: &str, message: &Message) -> Vec<u8> {
    let mut headers = String::from("NATS/1.0\r\n");
    put_header(&mut headers, "Nats-Msg-Id", &message.id);
    put_header(&mut headers, "content-type", &message.content_type);
    for (name, value) in &message.headers {
        put_header(&mut headers, name, value);
    }
    headers.push_str("\r\n");
    let total = headers.len() + message.body.len();
    let verb = format!("HPUB {subject} {reply_to} {} {total}\r\n", headers.len());
    let mut out = Vec::with_capacity(verb.len() + total + 2);
    out.extend_from_slice(verb.as_bytes());
    out.extend_from_slice(headers.as_bytes());
    out.extend_from_slice(&message.body);
    out.extend_from_slice(b"\r\n");
    out
}

/// Bytes that count against a server's ceiling.
pub(crate) fn counted_bytes(published: &[u8]) -> usize {
    let verb = published.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    published.len() - verb - 2
}

fn put_header(headers: &mut String, name: &str, value: &str) {
    headers.push_str(name);
    headers.push_str(": ");
    headers.extend(value.chars().map(|c| if c.is_control() { ' ' } else { c }));
    headers.push_str("\r\n");
}

/// Takes the next whole message off `bytes`; `None` while it is not whole.
pub(crate) fn next(bytes: &mut BytesMut) -> Result<Option<Op>, Malformed> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        if bytes.len() > ANSWER_BODY_BYTES_MAX {
            return Err(Malformed("the server sent a line over 64 KiB"));
        }
        return Ok(None);
    };
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| Malformed("the server sent a line that is not UTF-8"))?;
    let line = line.trim_end_matches('\r');
    let (verb, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let rest = rest.trim();
    let op = match verb.to_ascii_uppercase().as_str() {
        "INFO" => Op::Info(read_terms(rest)?),
        "PING" => Op::Ping,
        "PONG" => Op::Pong,
        "+OK" => Op::Ok,
        "-ERR" => Op::Error(rest.trim_matches('\'').to_owned()),
        "MSG" => return read_message(rest.to_owned(), false, bytes, end + 1),
        "HMSG" => return read_message(rest.to_owned(), true, bytes, end + 1),
        _ => return Err(Malformed("the server does not speak NATS")),
    };
    bytes.advance(end + 1);
    Ok(Some(op))
}

fn read_terms(json: &str) -> Result<Terms, Malformed> {
    let info: Value = serde_json::from_str(json).map_err(|_| Malformed("the server's INFO is not JSON"))?;
    let is = |name: &str| info[name] == Value::Bool(true);
    Ok(Terms {
        payload_bytes_max: info["max_payload"].as_u64(),
        has_headers: is("headers"),
        needs_tls: is("tls_required"),
        has_tls: is("tls_required") || is("tls_available"),
    })
}

/// `<subject> <sid> [reply-to] [header bytes] <total bytes>`, then the bytes.
fn read_message(line: String, has_header: bool, bytes: &mut BytesMut, at: usize) -> Result<Option<Op>, Malformed> {
    let refuse = Malformed("the server sent a message that is not one");
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let numbers = if has_header { 2 } else { 1 };
    if !(2 + numbers..=3 + numbers).contains(&words.len()) {
        return Err(refuse);
    }
    let number = |back: usize| words[words.len() - back].parse::<usize>().ok();
    let (Some(total), Some(header)) = (number(1), if has_header { number(2) } else { Some(0) }) else {
        return Err(refuse);
    };
    if header > total || total > ANSWER_BODY_BYTES_MAX {
        return Err(Malformed("the server sent a message over 64 KiB, or one whose header is longer than the whole"));
    }
    let Some(content) = bytes.get(at..at + total + 2) else { return Ok(None) };
    if !content.ends_with(b"\r\n") {
        return Err(refuse);
    }
    let reply = Reply {
        subject: words[0].to_owned(),
        status: if has_header { read_status(&content[..header]) } else { None },
        payload: content[header..total].to_vec(),
    };
    bytes.advance(at + total + 2);
    Ok(Some(Op::Message(reply)))
}

/// `NATS/1.0 503 No Responders`.
fn read_status(header: &[u8]) -> Option<u16> {
    let line = header.split(|byte| *byte == b'\r').next()?;
    let status = std::str::from_utf8(line).ok()?.strip_prefix("NATS/1.0")?.trim_start();
    status.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ess_core::id::{Digest, EventId, Subject, Version};

    use super::*;

    fn message() -> Message {
        Message {
            id: "msg_1".to_owned(),
            event_id: EventId::trusted("R-1-V3"),
            subject: Subject::trusted("R-1"),
            version: Version(3),
            extension: "json",
            content_type: "application/json".to_owned(),
            headers: vec![("x-hms-test".to_owned(), "true\r\nx: y".to_owned())],
            body: Bytes::from_static(b"{}\r\n"),
            body_digest: Digest([0; 32]),
            test: false,
            replay: false,
            partner_seq: None,
            attempt: 1,
        }
    }

    fn all(bytes: &[u8]) -> Result<Vec<Op>, Malformed> {
        let mut bytes = BytesMut::from(bytes);
        let mut ops = Vec::new();
        while let Some(op) = next(&mut bytes)? {
            ops.push(op);
        }
        Ok(ops)
    }

    #[test]
    fn a_message_is_written_as_the_protocol_has_it() {
        let golden = "HPUB rules.R-1 _INBOX.a.1 88 92\r\nNATS/1.0\r\nNats-Msg-Id: msg_1\r\n\
                      content-type: application/json\r\nx-hms-test: true  x: y\r\n\r\n{}\r\n\r\n";
        let published = publish("rules.R-1", "_INBOX.a.1", &message());
        assert_eq!(String::from_utf8(published.clone()).unwrap(), golden);
        assert_eq!(counted_bytes(&published), 92);
    }

    #[test]
    fn a_login_is_one_line_whatever_the_password_holds() {
        let text = log_in(Login::User("hub", "a\r\nPUB x 0\r\n"), "_INBOX.a");
        assert_eq!(text.matches("\r\n").count(), 3, "{text}");
        assert!(text.ends_with("\r\nSUB _INBOX.a.* 1\r\nPING\r\n"), "{text}");
        assert!(log_in(Login::Token("t"), "_INBOX.a").contains(r#""auth_token":"t""#));
    }

    #[test]
    fn what_a_server_says_is_read_in_any_pieces() {
        let said = b"INFO {\"max_payload\":1024,\"headers\":true,\"tls_available\":true}\r\nPING\r\npong\r\n+OK\r\n\
                     -ERR 'Authorization Violation'\r\nMSG _INBOX.a.1 1 4\r\n{}\r\n\r\n\
                     HMSG _INBOX.a.2 1 16 18\r\nNATS/1.0 503\r\n\r\n{}\r\n";
        let info = Terms { payload_bytes_max: Some(1024), has_headers: true, needs_tls: false, has_tls: true };
        let reply = |subject: &str, status, payload: &[u8]| {
            Op::Message(Reply { subject: subject.to_owned(), status, payload: payload.to_vec() })
        };
        let wanted = vec![
            Op::Info(info),
            Op::Ping,
            Op::Pong,
            Op::Ok,
            Op::Error("Authorization Violation".to_owned()),
            reply("_INBOX.a.1", None, b"{}\r\n"),
            reply("_INBOX.a.2", Some(503), b"{}"),
        ];
        assert_eq!(all(said), Ok(wanted.clone()));
        let mut bytes = BytesMut::new();
        let mut ops = Vec::new();
        for byte in said {
            bytes.extend_from_slice(&[*byte]);
            ops.extend(next(&mut bytes).unwrap());
        }
        assert_eq!(ops, wanted);
    }

    #[test]
    fn a_hostile_server_is_told_from_a_slow_one() {
        for broken in [
            "HTTP/1.1 400 Bad Request\r\n",
            "INFO nothing\r\n",
            "MSG a 1\r\n",
            "MSG a 1 x\r\n",
            "MSG a 1 b c d 4\r\n",
            "MSG a 1 99999999999999999999\r\n",
            "MSG a 1 70000\r\n",
            "HMSG a 1 9 8\r\n12345678\r\n",
            "MSG a 1 2\r\nabcd",
        ] {
            assert!(all(broken.as_bytes()).is_err(), "{broken}");
        }
        assert!(all(b"\xFF\xFE\n").is_err());
        assert!(all(&vec![b'x'; ANSWER_BODY_BYTES_MAX + 1]).is_err());
        for slow in ["", "INF", "MSG a 1 4\r\n", "MSG a 1 4\r\nabcd", "MSG a 1 4\r\nabcd\r"] {
            assert_eq!(all(slow.as_bytes()), Ok(Vec::new()), "{slow}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_of_a_server_bring_the_hub_down(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = all(&bytes);
            let _ = all(&[b"HMSG a 1 ".as_slice(), &bytes].concat());
        }
    }
}
