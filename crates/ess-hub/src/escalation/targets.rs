//! Sends a message to a target as it wants it. Says what came back, and never a secret.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use ess_channels::{Mail, Mailer, MailerOptions, Webhook};
use ess_core::escalation::{Note, Target, TargetKind, alertmanager, html, pagerduty, slack, webhook};
use ess_core::id::{Digest, EventId, Subject, Version};
use ess_core::message::Message;
use ess_core::partner::{Auth, SecretRef};
use ess_core::receipt::Receipt;
use ess_core::signature::{Ed25519Key, SigningSecret, sign_v1, sign_v1a};
use serde_json::Value;

use crate::registry::Opener;

/// One try, from the name's resolution to the answer's last byte.
const SEND_WITHIN: Duration = Duration::from_secs(20);
/// Characters of a target's answer that are shown.
const ANSWER_CHARS_MAX: usize = 200;

/// The targets, each ready or with the reason why it can't be used.
pub(super) struct Targets(BTreeMap<String, (Target, Result<Way, String>)>);

/// How a target is reached.
enum Way {
    /// Signed.
    Webhook(Webhook, SigningSecret),
    /// With the integration's key in the body.
    PagerDuty(Webhook, String),
    Slack(Webhook),
    Alertmanager(Webhook),
    Mail(Mailer),
}

impl Targets {
    pub(super) fn open(targets: &BTreeMap<String, Target>, opener: &Opener) -> Self {
        let open = |(name, target): (&String, &Target)| {
            let way = Way::open(&target.kind, opener);
            if let Err(reason) = &way {
                tracing::error!(target = name, reason, "the target {name} can't be used");
            }
            (name.clone(), (target.clone(), way))
        };
        Self(targets.iter().map(open).collect())
    }

    /// Why a target can't be used at all.
    pub(super) fn unusable(&self, name: &str) -> Option<String> {
        self.0.get(name).and_then(|(_, way)| way.as_ref().err().cloned())
    }

    /// Sends it once; the reason when it did not get there.
    pub(super) async fn send(&self, name: &str, note: &Note, key: &Ed25519Key) -> Result<(), String> {
        let (target, way) = self.0.get(name).ok_or("the target is not configured any more")?;
        let severity = target.severity;
        match way.as_ref().map_err(Clone::clone)? {
            Way::Webhook(channel, secret) => {
                let message = signed(note, &webhook(note), secret, key);
                post(channel, &message).await
            }
            Way::PagerDuty(channel, routing_key) => {
                post(channel, &plain(note, &pagerduty(note, routing_key, severity))).await?;
                if note.about.is_some() {
                    return Ok(());
                }
                // A test leaves no incident behind.
                let end = Note { is_end: true, ..note.clone() };
                post(channel, &plain(&end, &pagerduty(&end, routing_key, severity))).await
            }
            Way::Slack(channel) => post(channel, &plain(note, &slack(note))).await,
            Way::Alertmanager(channel) => post(channel, &plain(note, &alertmanager(note, severity))).await,
            Way::Mail(mailer) => {
                let TargetKind::Email { from, to, .. } = &target.kind else {
                    return Err("the target is no mail".to_owned());
                };
                let deadline = tokio::time::Instant::now() + SEND_WITHIN;
                mailer.send(&mail(note, from, to), deadline).await.map_err(|error| error.to_string())
            }
        }
    }
}

impl Way {
    fn open(kind: &TargetKind, opener: &Opener) -> Result<Self, String> {
        let find = |secret: &SecretRef| (opener.find_secret)(secret);
        let channel = |url: &SecretRef, path: &str, auth: Option<&Auth>| {
            let url = format!("{}{path}", find(url)?.trim_end_matches('/').trim());
            let credential = opener.credential(auth)?;
            Webhook::open(&url, &credential, &opener.dialer, 1).map_err(|error| error.to_string())
        };
        Ok(match kind {
            TargetKind::Webhook { url, secret, auth } => {
                let secret = SigningSecret::parse(&find(secret)?)?;
                Way::Webhook(channel(url, "", auth.as_ref())?, secret)
            }
            TargetKind::PagerDuty { url, routing_key } => Way::PagerDuty(channel(url, "", None)?, find(routing_key)?),
            TargetKind::Slack { url } => Way::Slack(channel(url, "", None)?),
            TargetKind::Alertmanager { url, auth } => Way::Alertmanager(channel(url, "/api/v2/alerts", auth.as_ref())?),
            TargetKind::Email { url, auth, is_plain, .. } => {
                let credential = opener.credential(auth.as_ref())?;
                let options = MailerOptions { url, is_plain: *is_plain, credential };
                Way::Mail(Mailer::open(options, &opener.dialer).map_err(|error| error.to_string())?)
            }
        })
    }
}

async fn post(channel: &Webhook, message: &Message) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + SEND_WITHIN;
    match channel.send(message, deadline).await {
        Receipt::Answer(answer) if (200..300).contains(&answer.status) => Ok(()),
        Receipt::Answer(answer) => {
            let said = String::from_utf8_lossy(&answer.body);
            let said = said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(ANSWER_CHARS_MAX);
            Err(format!("answered {}: {}", answer.status, said.collect::<String>())
                .trim_end_matches([' ', ':'])
                .to_owned())
        }
        Receipt::Failed(failure) => Err(failure.reason),
        // What other channels say; a POST is answered or fails.
        _ => Err("no HTTP answer".to_owned()),
    }
}

fn plain(note: &Note, body: &Value) -> Message {
    let body = Bytes::from(body.to_string());
    Message {
        id: note.id.clone(),
        event_id: EventId::trusted("HMS-ESS-OPS"),
        subject: Subject::trusted("HMS-ESS-OPS"),
        version: Version(1),
        extension: "json",
        content_type: "application/json".to_owned(),
        headers: Vec::new(),
        attempt: 1,
        partner_seq: None,
        replay: false,
        body_digest: Digest::of(&body),
        body,
        test: note.about.is_none(),
    }
}

/// Signed as messages to partners are (Standard Webhooks), by the secret and by the hub's key.
fn signed(note: &Note, body: &Value, secret: &SigningSecret, key: &Ed25519Key) -> Message {
    let mut message = plain(note, body);
    let timestamp_s = note.at.as_micros().div_euclid(1_000_000);
    let signature = format!(
        "{} {}",
        sign_v1(secret, &note.id, timestamp_s, &message.body),
        sign_v1a(key, &note.id, timestamp_s, &message.body)
    );
    message.content_type = "application/cloudevents+json".to_owned();
    message.headers = vec![
        ("webhook-id".to_owned(), note.id.clone()),
        ("webhook-timestamp".to_owned(), timestamp_s.to_string()),
        ("webhook-signature".to_owned(), signature),
    ];
    message
}

fn mail(note: &Note, from: &str, to: &[String]) -> Mail {
    let mut headers = Vec::new();
    if let Some((partner, cause)) = &note.about {
        headers.push(("X-HMS-Partner".to_owned(), partner.to_string()));
        headers.push(("X-HMS-Cause".to_owned(), cause.word().to_owned()));
    }
    if note.urgent && !note.is_end {
        headers.push(("X-Priority".to_owned(), "1".to_owned()));
    }
    Mail {
        id: note.id.clone(),
        from: from.to_owned(),
        to: to.to_vec(),
        subject: note.title.clone(),
        text: note.text(),
        html: Some(html(note)),
        attachment: None,
        headers,
        at: note.at,
    }
}
