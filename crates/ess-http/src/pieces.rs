//! A body that is made while it is sent, one piece after the other: what asks for it decides the pace, and no more than a piece is
//! in memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use http_body::Frame;

/// A piece, and what the next one is made from; `None` at the end.
pub(crate) type Step<S> = io::Result<Option<(Bytes, S)>>;

/// The body that `next` makes from `state` on. An error breaks it off, so that the reader sees that it is not whole.
pub(crate) fn body<S, F>(state: S, next: fn(S) -> F) -> Body
where
    S: Send + 'static,
    F: Future<Output = Step<S>> + Send + 'static,
{
    Body::new(Pieces { step: Some(Box::pin(next(state))), next })
}

struct Pieces<S, F> {
    step: Option<Pin<Box<F>>>,
    next: fn(S) -> F,
}

impl<S, F: Future<Output = Step<S>>> http_body::Body for Pieces<S, F> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(step) = &mut self.step else { return Poll::Ready(None) };
        let made = ready!(step.as_mut().poll(ctx));
        self.step = None;
        match made {
            Ok(None) => Poll::Ready(None),
            Ok(Some((bytes, state))) => {
                self.step = Some(Box::pin((self.next)(state)));
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}
