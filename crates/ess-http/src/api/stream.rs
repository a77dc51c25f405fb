//! `/v1/stream`: the hub's lifecycle as server-sent events, each a CloudEvent.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use ess_core::access::Act;
use ess_hub::Hub;
use ess_hub::view::Happening;
use http::{Request, StatusCode, header};
use http_body::Frame;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::ask::{Query, authorize};
use crate::problem::Refusal;
use crate::views;

/// A comment now and then tells both sides that the other is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(crate) async fn follow(State(hub): State<Hub>, request: Request<Body>) -> Result<Response, Refusal> {
    authorize(&hub, request.headers(), &Act::Read)?;
    Query::of(&request).finish()?;
    let body = Body::new(Following { next: Box::pin(next(hub.happenings())) });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::OK, headers, body).into_response())
}

type Next = std::pin::Pin<Box<dyn Future<Output = (Option<String>, Receiver<Happening>)> + Send>>;

/// A body that goes on as long as something may happen.
struct Following {
    next: Next,
}

impl http_body::Body for Following {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.next.as_mut().poll(cx).map(|(text, happenings)| {
            let text = text?;
            self.next = Box::pin(next(happenings));
            Some(Ok(Frame::data(Bytes::from(text))))
        })
    }
}

async fn next(mut happenings: Receiver<Happening>) -> (Option<String>, Receiver<Happening>) {
    let text = match tokio::time::timeout(KEEP_ALIVE, happenings.recv()).await {
        Err(_) => Some(": still here\n\n".to_owned()),
        Ok(Ok(happening)) => {
            let (number, kind) = (happening.number, happening.kind);
            Some(format!("id: {number}\nevent: {kind}\ndata: {}\n\n", views::happening(&happening)))
        }
        Ok(Err(RecvError::Lagged(missed))) => Some(format!("event: stream.missed\ndata: {{\"missed\":{missed}}}\n\n")),
        Ok(Err(RecvError::Closed)) => None,
    };
    (text, happenings)
}
