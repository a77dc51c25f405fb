//! A partner that listens on loopback, answers as told and keeps what it got.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::program::wait_for;

/// One request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Manner {
    Acks,
    Refuses,
}

/// A partner.
pub(crate) struct Partner {
    pub(crate) address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Partner {
    pub(crate) fn listen(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let got: Arc<Mutex<Vec<Got>>> = Arc::default();
        let kept = got.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = kept.clone();
                std::thread::spawn(move || answer(stream, manner, &kept));
            }
        });
        Self { address, got }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/update", self.address)
    }

    /// Waits until it has got so many.
    pub(crate) fn wait(&self, count: usize) -> Vec<Got> {
        wait_for("the partner's messages", || self.got.lock().unwrap().len() >= count);
        self.got.lock().unwrap().clone()
    }
}

fn answer(stream: TcpStream, manner: Manner, kept: &Mutex<Vec<Got>>) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    while let Some(got) = read(&mut reader) {
        let event: Value = serde_json::from_str(&got.body).unwrap_or_default();
        kept.lock().unwrap().push(got);
        let (status, body) = match manner {
            Manner::Acks => ("200 OK", json!({"ack": event["id"]}).to_string()),
            Manner::Refuses => ("422 Unprocessable Content", String::new()),
        };
        let length = body.len();
        if write!(writer, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}").is_err() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Got> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length")?.1.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Got { headers, body: String::from_utf8(body).ok()? })
}
