//! Reads request bodies: never more than the bound, never longer than the clock allows.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{FromRequest, Request};
use bytes::{Bytes, BytesMut};
use ess_core::problem::{Code, Problem};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::limits::{BODY_COUNTED_FROM_BYTES, BODY_GRACE, BODY_RATE_MIN_BYTES_PER_S, SMALL_BODY_BYTES_MAX};
use crate::refusal::Refusal;
use crate::site::{Room, Site};

/// A body as it came, and its share of the room for bodies.
pub(crate) struct ReadBody<'a> {
    pub(crate) bytes: Bytes,
    _room: Room<'a>,
}

/// A body that is not looked at. It is taken off the connection all the same: what is left on it would close it under the
/// caller's next request.
pub(crate) struct Ignored;

impl FromRequest<Arc<Site>> for Ignored {
    type Rejection = Refusal;

    async fn from_request(request: Request, site: &Arc<Site>) -> Result<Self, Refusal> {
        read(site, request.into_body(), SMALL_BODY_BYTES_MAX).await?;
        Ok(Self)
    }
}

/// Reads a body of at most `bytes_max`. One that announces more is refused unread.
pub(crate) async fn read<B>(site: &Site, body: B, bytes_max: usize) -> Result<ReadBody<'_>, Problem>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut body = body;
    let announced = body.size_hint().lower();
    if announced > bytes_max as u64 {
        return Err(too_large(Some(announced), bytes_max));
    }
    let announced = usize::try_from(announced).unwrap_or(usize::MAX);
    let mut room = site.take_room(announced.saturating_sub(BODY_COUNTED_FROM_BYTES))?;
    // Most bodies are one piece that came with the head: it is handed on without a copy, and no clock is read.
    let Some(first) = next_piece(&mut body, site.body_timeout).await? else {
        return Ok(ReadBody { bytes: Bytes::new(), _room: room });
    };
    if first.len() > bytes_max {
        return Err(too_large(None, bytes_max));
    }
    if body.is_end_stream() || first.len() == announced {
        return Ok(ReadBody { bytes: first, _room: room });
    }
    let started = Instant::now();
    let mut whole = BytesMut::with_capacity(announced.clamp(first.len(), BODY_COUNTED_FROM_BYTES));
    whole.extend_from_slice(&first);
    while let Some(piece) = next_piece(&mut body, site.body_timeout).await? {
        if whole.len() + piece.len() > bytes_max {
            return Err(too_large(None, bytes_max));
        }
        whole.extend_from_slice(&piece);
        let counted = whole.len().saturating_sub(BODY_COUNTED_FROM_BYTES);
        room.grow(counted.saturating_sub(room.bytes()))?;
        let earned_s = whole.len() as u64 / BODY_RATE_MIN_BYTES_PER_S;
        if started.elapsed() > BODY_GRACE + Duration::from_secs(earned_s) {
            return Err(too_slow());
        }
    }
    Ok(ReadBody { bytes: whole.freeze(), _room: room })
}

async fn next_piece<B>(body: &mut B, patience: Duration) -> Result<Option<Bytes>, Problem>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    loop {
        match timeout(patience, body.frame()).await {
            Err(_) => return Err(too_slow()),
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return Ok(Some(piece)),
                // Trailers.
                Err(_) => {}
            },
            Ok(Some(Err(_))) => {
                return Err(Problem::new(Code::Malformed, "the body ended before it was complete")
                    .with_hint("check content-length and chunk sizes, and that the connection holds"));
            }
        }
    }
}

fn too_large(announced: Option<u64>, bytes_max: usize) -> Problem {
    let detail = match announced {
        Some(bytes) => format!("the body has {bytes} bytes; at most {bytes_max} are taken here"),
        None => format!("the body has more than {bytes_max} bytes"),
    };
    Problem::new(Code::TooLarge, detail)
        .with_hint("send fewer or smaller events at a time; large documents belong behind a link")
}

fn too_slow() -> Problem {
    Problem::new(Code::RequestTimeout, "the body did not arrive in time")
        .with_hint("send the whole body without pauses, and try again")
}
