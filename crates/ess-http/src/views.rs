//! Wire shapes: what the engine tells, as JSON.

use ess_core::access::Role;
use ess_core::bridge::{Bridge, Rule};
use ess_core::partner::{Glob, Secrets};
use ess_core::receipt::Evidence;
use ess_core::time::Time;
use ess_hub::view::{
    BlockedPartner, DeliveryView, EventView, Happening, LedgerView, Page, PartnerView, Plan, PublishReceipt, TokenView,
};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// JSON text that was made elsewhere, numbers as they were written.
fn raw(text: &str) -> Box<RawValue> {
    // Invariant: payloads and bodies are JSON that was checked when it came in.
    RawValue::from_string(text.to_owned()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

pub(crate) fn receipt(receipt: &PublishReceipt) -> Value {
    let mut value = json!({
        "id": receipt.id.as_str(),
        "sequence": receipt.sequence.0,
        "subject": receipt.subject.as_str(),
        "recorded_at": receipt.recorded_at.to_string(),
        "test": receipt.test,
        "partners": receipt.partners,
        "blocked": receipt.blocked.iter().map(blocked).collect::<Vec<_>>(),
    });
    if receipt.duplicate {
        value["duplicate"] = json!(true);
    }
    value
}

fn blocked(blocked: &BlockedPartner) -> Value {
    json!({"partner": blocked.partner.as_str(), "reason": blocked.reason, "mend": blocked.mend})
}

pub(crate) fn plan(plan: &Plan) -> Value {
    let partners: Vec<Value> = plan
        .partners
        .iter()
        .map(|entry| {
            let mut value =
                json!({"partner": entry.partner.as_str(), "version": entry.version.0, "bridges": entry.bridges});
            match &entry.outcome {
                Ok(body) => {
                    value["outcome"] = json!("deliver");
                    value["body"] = json!(body);
                }
                Err(why) => {
                    value["outcome"] = json!("blocked");
                    value["reason"] = json!(why.reason);
                    value["mend"] = json!(why.mend);
                }
            }
            value
        })
        .collect();
    json!({
        "id": plan.id.as_str(),
        "subject": plan.subject.as_str(),
        "version": plan.version.0,
        "test": plan.test,
        "partners": partners,
    })
}

/// An event as text: its payload byte for byte.
pub(crate) fn event(view: &EventView) -> String {
    let event = &view.event;
    let content = &event.content;
    let mut value = Map::new();
    let mut put = |name: &str, field: Value| {
        value.insert(name.to_owned(), field);
    };
    put("id", json!(content.id.as_str()));
    put("version", json!(content.version.0));
    put("subject", json!(content.subject.as_str()));
    put("sequence", json!(event.seq.0));
    put("recorded_at", json!(event.recorded_at.to_string()));
    put("priority", json!(content.priority.word()));
    put("kind", json!(content.kind.word()));
    put("references", json!(content.references.iter().map(|id| id.as_str()).collect::<Vec<_>>()));
    put("test", json!(content.test));
    put("partners", json!(view.partners));
    for (name, field) in [
        ("source", &content.source),
        ("time", &content.time),
        ("effective", &content.effective),
        ("expires", &content.expires),
        ("traceparent", &event.trace.traceparent),
        ("trace_id", &event.trace.trace_id),
        ("docket_id", &event.trace.docket_id),
    ] {
        if let Some(text) = field {
            put(name, json!(text));
        }
    }
    let mut text = Value::Object(value).to_string();
    text.pop();
    format!("{text},\"payload\":{}}}", raw(content.payload.get()).get())
}

pub(crate) fn delivery(view: &DeliveryView) -> Value {
    let mut value = json!({
        "event_id": view.event_id.as_str(),
        "sequence": view.sequence.0,
        "partner": view.partner.as_str(),
        "round": view.round,
        "replay": view.round > 0,
        "test": view.test,
        "state": if view.paused { "paused" } else { view.state.word() },
        "message_id": view.message_id,
        "attempts_made": view.attempts_made,
    });
    let attempts: Vec<Value> = view
        .attempts
        .iter()
        .map(|attempt| {
            let mut value = json!({
                "number": attempt.number,
                "at": attempt.at.to_string(),
                "took_ms": attempt.took.as_secs_f64() * 1e3,
                "outcome": attempt.outcome,
            });
            put(&mut value, "status", attempt.status.map(Value::from));
            put(&mut value, "reason", attempt.reason.as_deref().map(Value::from));
            value
        })
        .collect();
    value["attempts"] = json!(attempts);
    put(&mut value, "version", view.version.map(|version| json!(version.0)));
    put(&mut value, "partner_seq", view.partner_seq.map(Value::from));
    put(&mut value, "due_at", view.due_at.map(time));
    put(&mut value, "reason", view.reason.as_deref().map(Value::from));
    put(&mut value, "mend", view.mend.as_deref().map(Value::from));
    put(&mut value, "ended_at", view.ended_at.map(time));
    put(&mut value, "evidence", view.evidence.map(evidence));
    put(&mut value, "body_sha256", view.body_digest.map(|digest| json!(digest.to_string())));
    value
}

pub(crate) fn partner(view: &PartnerView) -> Value {
    let state = match (view.paused_since, view.offline_since) {
        (Some(_), _) => "paused",
        (None, Some(_)) => "offline",
        (None, None) => "active",
    };
    let mut value = json!({
        "id": view.partner.id.as_str(),
        "state": state,
        "config": view.partner.to_json(Secrets::Masked),
        "added_at": view.added_at.to_string(),
        "backlog": view.backlog,
        "in_flight": view.in_flight,
    });
    put(&mut value, "paused_since", view.paused_since.map(time));
    put(&mut value, "offline_since", view.offline_since.map(time));
    put(&mut value, "last_error", view.last_error.as_deref().map(Value::from));
    value
}

pub(crate) fn bridge(bridge: &Bridge) -> Value {
    let from = match bridge.from {
        ess_core::bridge::FromVersion::Exactly(version) => json!(version.0),
        least @ ess_core::bridge::FromVersion::AtLeast(_) => json!(least.to_string()),
    };
    let json_of = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    let examples: Vec<Value> = bridge
        .examples
        .iter()
        .map(|example| json!({"input": json_of(&example.input), "output": json_of(&example.output)}))
        .collect();
    let mut value = json!({
        "id": bridge.id,
        "subject": bridge.subject.as_str(),
        "from": from,
        "to": bridge.to.0,
        "examples": examples,
    });
    match &bridge.rule {
        Rule::Identity => value["identity"] = json!(true),
        Rule::Script { text, digest } => {
            value["script"] = json!(text);
            value["sha256"] = json!(digest.to_string());
        }
    }
    value
}

pub(crate) fn ledger(view: &LedgerView) -> Value {
    let mut value = json!({
        "index": view.index,
        "event_id": view.event_id.as_str(),
        "sequence": view.sequence.0,
        "partner": view.partner.as_str(),
        "round": view.round,
        "word": view.word,
        "at": view.at.to_string(),
        "attempt": view.attempt,
        "body_sha256": view.body_digest.to_string(),
        "chain": view.chain.to_string(),
    });
    put(&mut value, "evidence", view.evidence.map(evidence));
    value
}

pub(crate) fn token(view: &TokenView) -> Value {
    let mut value = json!({
        "id": view.id,
        "role": view.role.word(),
        "note": view.note,
        "created_at": view.created_at.to_string(),
    });
    match &view.role {
        Role::Publisher { subjects } if !subjects.is_empty() => {
            value["subjects"] = json!(subjects.iter().map(Glob::as_str).collect::<Vec<_>>());
        }
        Role::Partner(partner) => value["partner"] = json!(partner.as_str()),
        _ => {}
    }
    put(&mut value, "expires_at", view.expires_at.map(time));
    put(&mut value, "revoked_at", view.revoked_at.map(time));
    value
}

/// A happening as a CloudEvent.
pub(crate) fn happening(happening: &Happening) -> Value {
    let mut data = json!({"detail": happening.detail});
    put(&mut data, "event_id", happening.event_id.as_ref().map(|id| json!(id.as_str())));
    put(&mut data, "partner", happening.partner.as_ref().map(|id| json!(id.as_str())));
    json!({
        "specversion": "1.0",
        "id": happening.number.to_string(),
        "source": "urn:hms-ess",
        "type": format!("hms.ess.{}", happening.kind),
        "time": happening.at.to_string(),
        "datacontenttype": "application/json",
        "data": data,
    })
}

/// A page of a list.
pub(crate) fn page<T>(page: &Page<T>, item: impl Fn(&T) -> Value) -> Value {
    let mut value = json!({"items": page.items.iter().map(item).collect::<Vec<_>>()});
    put(&mut value, "next", page.next.as_deref().map(Value::from));
    value
}

fn evidence(evidence: Evidence) -> Value {
    json!(match evidence {
        Evidence::Body => "body",
        Evidence::Status => "status",
        Evidence::Callback => "callback",
        Evidence::File => "file",
        Evidence::Topic => "topic",
    })
}

fn time(time: Time) -> Value {
    json!(time.to_string())
}

fn put(value: &mut Value, name: &str, field: Option<Value>) {
    if let Some(field) = field {
        value[name] = field;
    }
}
