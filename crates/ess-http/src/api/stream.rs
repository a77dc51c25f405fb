//! `GET /v1/stream`: what happens in the hub, as server-sent events that carry CloudEvents.
//!
//! Never holds the hub up: a reader that is too slow misses some and is told how many.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use bytes::Bytes;
use ess_core::access::Act;
use ess_core::time::Time;
use ess_hub::metrics::{Limit, Metrics};
use ess_hub::view::Happening;
use http_body::Frame;
use serde_json::json;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::api::Answer;
use crate::caller::Caller;
use crate::limits::STREAM_HEARTBEAT;
use crate::query::Query;
use crate::site::Site;

/// Follow what happens
///
/// Server-sent events, each a CloudEvent of the hub's own life: `event.recorded`, `delivery.acked`, `delivery.retrying`,
/// `delivery.blocked`, `delivery.dead`, `partner.offline`, `partner.recovered`. Begins now; a reader that is too slow gets
/// `stream.missed` with the number that it missed.
#[utoipa::path(
    get,
    path = "/v1/stream",
    tag = "Hub",
    operation_id = "follow_stream",
    responses((status = 200, description = "A stream without end.", body = String, content_type = "text/event-stream", example = "id: 7\nevent: delivery.acked\ndata: {\"specversion\":\"1.0\",\"type\":\"hms.ess.delivery.acked\",\"id\":\"7\",\"data\":{\"event_id\":\"RULE-COURT-DEADLINE-V3\",\"partner\":\"COURT-CAL\"}}\n\n")),
)]
pub(crate) async fn follow_stream(State(site): State<Arc<Site>>, caller: Caller, query: Query) -> Answer {
    caller.permit(&Act::Read)?;
    query.only(&[])?;
    let listener = Listener {
        happenings: site.hub.happenings(),
        stopping: site.stopping.clone(),
        source: format!("/v1/stream/{}", site.instance),
        metrics: site.hub.metrics(),
    };
    let mut response = Response::new(Body::new(Stream { step: Box::pin(greet(listener)) }));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that collect answers would hold the stream back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// What a stream listens to.
struct Listener {
    happenings: Receiver<Happening>,
    stopping: watch::Receiver<bool>,
    source: String,
    metrics: Arc<Metrics>,
}

/// A text of the stream, and the listener for the next one; `None` at the end.
type Step = Option<(String, Listener)>;

/// The body of a stream: one text after the other.
struct Stream {
    step: Pin<Box<dyn Future<Output = Step> + Send>>,
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match ready!(self.step.as_mut().poll(ctx)) {
            None => {
                self.step = Box::pin(async { None });
                Poll::Ready(None)
            }
            Some((text, listener)) => {
                self.step = Box::pin(next(listener));
                Poll::Ready(Some(Ok(Frame::data(Bytes::from(text)))))
            }
        }
    }
}

/// The first text: the client knows at once that it is connected.
async fn greet(listener: Listener) -> Step {
    Some((": connected\nretry: 2000\n\n".to_owned(), listener))
}

async fn next(mut listener: Listener) -> Step {
    let Listener { happenings, stopping, source, metrics } = &mut listener;
    let received = tokio::select! {
        received = timeout(STREAM_HEARTBEAT, happenings.recv()) => received,
        _ = stopping.wait_for(|stopping| *stopping) => return None,
    };
    let text = match received {
        Err(_) => ": alive\n\n".to_owned(),
        Ok(Ok(happening)) => tell(&happening, source),
        Ok(Err(RecvError::Lagged(missed))) => {
            metrics.count_limit(Limit::StreamLag);
            tell_missed(missed, source)
        }
        Ok(Err(RecvError::Closed)) => return None,
    };
    Some((text, listener))
}

fn tell(happening: &Happening, source: &str) -> String {
    let Happening { number, at, kind, event_id, partner, detail } = happening;
    let event = json!({
        "specversion": "1.0",
        "id": number.to_string(),
        "source": source,
        "type": format!("hms.ess.{kind}"),
        "time": at.to_string(),
        "datacontenttype": "application/json",
        "data": {
            "event_id": event_id.as_ref().map(ToString::to_string),
            "partner": partner.as_ref().map(ToString::to_string),
            "detail": detail,
        },
    });
    // JSON text has no line breaks, so it is one `data:` line.
    format!("id: {number}\nevent: {kind}\ndata: {event}\n\n")
}

fn tell_missed(missed: u64, source: &str) -> String {
    let now = Time::from_micros(jiff::Timestamp::now().as_microsecond());
    let event = json!({
        "specversion": "1.0",
        "id": format!("missed-{}", now.as_micros()),
        "source": source,
        "type": "hms.ess.stream.missed",
        "time": now.to_string(),
        "datacontenttype": "application/json",
        "data": {"missed": missed, "detail": format!("this reader was too slow and missed {missed} happenings")},
    });
    format!("event: stream.missed\ndata: {event}\n\n")
}

#[cfg(test)]
mod tests {
    use ess_core::id::{EventId, PartnerId};
    use http_body_util::BodyExt;
    use tokio::sync::broadcast;

    use super::*;

    fn happening(number: u64) -> Happening {
        Happening {
            number,
            at: Time::from_micros(0),
            kind: "delivery.acked",
            event_id: Some(EventId::trusted("A-V1")),
            partner: Some(PartnerId::trusted("COURT-CAL")),
            detail: "one\ntwo".to_owned(),
        }
    }

    fn stream(happenings: Receiver<Happening>, stopping: watch::Receiver<bool>) -> Stream {
        Stream {
            step: Box::pin(next(Listener {
                happenings,
                stopping,
                source: "/v1/stream/x".to_owned(),
                metrics: Arc::default(),
            })),
        }
    }

    #[test]
    fn a_happening_is_one_cloudevent_on_one_line() {
        let text = tell(&happening(7), "/v1/stream/x");
        let [id, kind, data, empty, end] = text.split('\n').collect::<Vec<_>>().try_into().unwrap();
        assert_eq!((id, kind, empty, end), ("id: 7", "event: delivery.acked", "", ""));
        let event: serde_json::Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(event["type"], "hms.ess.delivery.acked");
        assert_eq!(event["data"]["partner"], "COURT-CAL");
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_how_many_it_missed_and_a_stop_ends_the_stream() {
        let (sender, receiver) = broadcast::channel(2);
        let (stop, stopping) = watch::channel(false);
        for number in 1..=5 {
            sender.send(happening(number)).unwrap();
        }
        let mut stream = stream(receiver, stopping);
        let mut next = async || {
            let frame = stream.frame().await?;
            Some(String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
        };
        let missed = next().await.unwrap();
        assert!(missed.starts_with("event: stream.missed\n") && missed.contains("\"missed\":3"), "{missed}");
        assert!(next().await.unwrap().starts_with("id: 4\n"));
        assert!(next().await.unwrap().starts_with("id: 5\n"));
        stop.send_replace(true);
        assert_eq!(next().await, None);
    }
}
