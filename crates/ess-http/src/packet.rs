//! The packet for a court, a zip file that is written while it is sent.
//!
//! Never more of it is in memory than one file; proofs, of which there is one for each partner, are made as they are written.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::Response;
use bytes::Bytes;
use ess_core::id::Digest;
use ess_core::ledger::Receipt;
use ess_core::ledger::packet::{self, Listed, Manifest};
use ess_hub::Hub;
use ess_hub::audit::EventAudit;
use rawzip::time::UtcDateTime;
use rawzip::{CompressionMethod, ZipArchiveWriter};
use serde::Serialize;

use crate::api::deliveries::Delivery;
use crate::packet_page;
use crate::pieces::{self, Step};

/// Bytes after which what was written is sent.
const SEND_BYTES: usize = 64 * 1024;

/// Answers the packet of an event, as a file.
pub(crate) fn answer(hub: Hub, audit: EventAudit) -> Response {
    // An id's only character that file names don't take everywhere.
    let name = format!("attachment; filename=\"{}.packet.zip\"", audit.record.id.replace(':', "_"));
    let mut response = Response::new(pieces::body(Packet::new(hub, audit), next));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/zip"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.extend(HeaderValue::from_str(&name).map(|value| (CONTENT_DISPOSITION, value)));
    response
}

/// A packet on its way.
struct Packet {
    hub: Hub,
    audit: EventAudit,
    listed: Vec<Listed>,
    /// Taken away when the archive is closed.
    zip: Option<ZipArchiveWriter<Outbox>>,
    outbox: Outbox,
    digests: BTreeMap<String, String>,
    part: Part,
}

/// What is written next.
#[derive(Debug, Clone, Copy)]
enum Part {
    Page,
    Event,
    Deliveries,
    Made,
    Proof(usize),
    Manifest,
    End,
}

/// What the archive wrote and was not sent yet.
#[derive(Clone, Default)]
struct Outbox(
    // Guards the bytes; held to add some or to take all.
    Arc<Mutex<Vec<u8>>>,
);

impl Outbox {
    /// All of it, when it is as much as that.
    fn take(&self, least: usize) -> Option<Bytes> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (bytes.len() >= least).then(|| Bytes::from(std::mem::take(&mut *bytes)))
    }
}

impl Write for Outbox {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn next(mut packet: Packet) -> Step<Packet> {
    loop {
        let is_end = matches!(packet.part, Part::End);
        if let Some(bytes) = packet.outbox.take(if is_end { 1 } else { SEND_BYTES }) {
            return Ok(Some((bytes, packet)));
        }
        if is_end {
            return Ok(None);
        }
        packet.part = packet.write_part().await.inspect_err(|error| {
            tracing::error!(%error, event.id = packet.audit.record.id, "could not write the packet of an event");
        })?;
    }
}

impl Packet {
    fn new(hub: Hub, audit: EventAudit) -> Self {
        let outbox = Outbox::default();
        Self {
            listed: list(&audit),
            hub,
            audit,
            zip: Some(ZipArchiveWriter::new(outbox.clone())),
            outbox,
            digests: BTreeMap::new(),
            part: Part::Page,
        }
    }

    /// Writes a part; answers the next one.
    async fn write_part(&mut self) -> io::Result<Part> {
        match self.part {
            Part::Page => {
                let page = packet_page::page(&self.audit, &self.listed, &self.hub.verifier_key());
                self.add("index.html", page.as_bytes())?;
                self.add("README.txt", packet_page::README.as_bytes())?;
                Ok(Part::Event)
            }
            Part::Event => {
                self.write_event()?;
                Ok(Part::Deliveries)
            }
            Part::Deliveries => {
                let deliveries: Vec<Delivery> = self.audit.deliveries.iter().cloned().map(Delivery::of).collect();
                self.add("attempts.json", &lines(&deliveries)?)?;
                self.add(packet::RECEIPTS, &lines(&self.listed)?)?;
                Ok(Part::Made)
            }
            Part::Made => {
                self.write_made()?;
                Ok(Part::Proof(0))
            }
            Part::Proof(at) => match (self.listed.get(at), &self.audit.checkpoint) {
                (Some(Listed { index, proof: name, receipt }), Some(checkpoint)) => {
                    let proof = self.hub.proof(receipt.clone(), *index, checkpoint).await;
                    let proof = proof.map_err(|problem| io::Error::other(problem.detail))?;
                    let name = name.clone();
                    self.add(&name, proof.write().as_bytes())?;
                    Ok(Part::Proof(at + 1))
                }
                _ => Ok(Part::Manifest),
            },
            Part::Manifest | Part::End => {
                self.close()?;
                Ok(Part::End)
            }
        }
    }

    fn write_event(&mut self) -> io::Result<()> {
        let record = &self.audit.record;
        let event = packet::write_event(&self.audit.event.content, record.payload);
        let record = serde_json::to_vec_pretty(record)?;
        self.add(packet::EVENT, event.as_bytes())?;
        self.add(packet::RECORD, &record)?;
        let key = self.hub.verifier_key();
        self.add("key.txt", format!("{key}\n").as_bytes())?;
        if let Some(note) = self.audit.checkpoint.as_ref().map(|checkpoint| checkpoint.note.clone()) {
            self.add(packet::CHECKPOINT, note.as_bytes())?;
        }
        Ok(())
    }

    /// Conversions, scripts, and the bytes that were sent.
    fn write_made(&mut self) -> io::Result<()> {
        for (version, payload) in std::mem::take(&mut self.audit.conversions) {
            if let Ok(payload) = payload {
                self.add(&format!("conversions/{version}.json"), payload.as_bytes())?;
            }
        }
        for (digest, script) in std::mem::take(&mut self.audit.scripts) {
            self.add(&packet_page::script_file(&digest, &script), script.text.as_bytes())?;
        }
        for (digest, (bytes, extension)) in std::mem::take(&mut self.audit.sent) {
            self.add(&packet_page::sent_file(&digest, extension), &bytes)?;
        }
        Ok(())
    }

    fn add(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let digest = Digest::of(bytes).to_string();
        self.put(name, bytes)?;
        self.digests.insert(name.to_owned(), digest);
        Ok(())
    }

    fn put(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let Some(zip) = &mut self.zip else { return Err(io::Error::other("the archive is closed")) };
        let made_at = UtcDateTime::from_unix(self.audit.made_at.as_micros().div_euclid(1_000_000));
        let (mut entry, config) = zip
            .new_file(name)
            .compression_method(CompressionMethod::STORE)
            .last_modified(made_at)
            .unix_permissions(0o644)
            .start()
            .map_err(io::Error::other)?;
        let mut writer = config.wrap(&mut entry);
        writer.write_all(bytes)?;
        let (_, descriptor) = writer.finish().map_err(io::Error::other)?;
        entry.finish(descriptor).map_err(io::Error::other)?;
        Ok(())
    }

    /// The manifest, its signature, and the archive's directory.
    fn close(&mut self) -> io::Result<()> {
        let manifest = Manifest {
            format: packet::FORMAT.to_owned(),
            event: self.audit.record.id.clone(),
            test: self.audit.event.content.test,
            made_at: self.audit.made_at.to_string(),
            files: std::mem::take(&mut self.digests),
        }
        .write();
        self.put(packet::MANIFEST, manifest.as_bytes())?;
        let note = self.hub.sign_manifest(&manifest);
        self.put(packet::MANIFEST_NOTE, note.as_bytes())?;
        if let Some(zip) = self.zip.take() {
            zip.finish().map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// The receipts with the names of their proofs: a partner's newest one bears its name alone.
fn list(audit: &EventAudit) -> Vec<Listed> {
    let mut newest: HashMap<&str, (u32, u64)> = HashMap::new();
    for (index, receipt) in &audit.receipts {
        let known = newest.entry(&receipt.partner).or_default();
        *known = (*known).max((receipt.round, *index));
    }
    let proof = |index: u64, receipt: &Receipt| {
        let partner = &receipt.partner;
        match newest.get(partner.as_str()) {
            Some((_, newest)) if *newest != index => format!("proofs/{partner}~{index}.json"),
            _ => format!("proofs/{partner}.json"),
        }
    };
    let listed = |(index, receipt): &(u64, Receipt)| Listed {
        index: *index,
        proof: proof(*index, receipt),
        receipt: receipt.clone(),
    };
    audit.receipts.iter().map(listed).collect()
}

/// A JSON list with an item on each line.
fn lines(items: &[impl Serialize]) -> io::Result<Vec<u8>> {
    let mut text = b"[".to_vec();
    for (number, item) in items.iter().enumerate() {
        text.extend_from_slice(if number == 0 { b"\n" } else { b",\n" });
        serde_json::to_writer(&mut text, item)?;
    }
    text.extend_from_slice(b"\n]\n");
    Ok(text)
}
