//! The s3 channel against moto's store.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use ess_channels::{Channel, Credential};
use ess_core::id::Digest;
use ess_core::message::Message;
use serde_json::json;

use crate::conformance::{Described, conforms};
use crate::link::Link;
use crate::partner::{dialer, document};
use crate::python::PythonServer;

/// The objects of a bucket beneath `inbox/`.
fn objects(store: &PythonServer, bucket: &str) -> Vec<(String, Vec<u8>)> {
    let listed = store.ask("GET", &format!("/{bucket}?list-type=2"), b"");
    let listed = String::from_utf8(listed).unwrap();
    let keys = listed.split("<Key>inbox/").skip(1).map(|rest| rest.split_once("</Key>").unwrap().0.to_owned());
    keys.map(|key| (key.clone(), store.ask("GET", &format!("/{bucket}/inbox/{key}"), b""))).collect()
}

fn digested(message: Message) -> Message {
    Message { body_digest: Digest::of(&message.body), ..message }
}

#[tokio::test]
async fn s3_does_what_every_channel_does() {
    // The store takes seconds to start, so each part of the suite has a bucket of its own.
    let (store, buckets) = (Rc::new(PythonServer::start("store.py")), Cell::new(0));
    conforms(async || {
        buckets.set(buckets.get() + 1);
        let bucket = format!("bucket{}", buckets.get());
        store.ask("PUT", &format!("/{bucket}"), b"");
        let link = Link::to(store.address).await;
        let url = format!("s3://{bucket}/inbox");
        let auth = json!({"user": "id", "password": "secret"});
        let endpoint = format!("http://{}", link.address);
        let partner = document("s3", &url, json!({"endpoint": endpoint, "auth": auth}));
        let credential = Credential::Password { user: Some("id".to_owned()), password: "secret".to_owned() };
        let channel = Channel::open(&partner, &url, credential, &dialer(&["127.0.0.0/8"], Vec::new())).unwrap();
        let (looked_at, there, of) = (Rc::clone(&store), Rc::clone(&store), bucket.clone());
        Described {
            channel: Arc::new(channel),
            link: Some(link),
            delivered: Box::new(move || objects(&looked_at, &of)),
            shape: digested,
            refuse: Some(Box::new(move |message| {
                there.ask("PUT", &format!("/{bucket}/inbox/{}", message.file_name()), b"the partner's own");
                message
            })),
            // This store ends a connection after each answer.
            connections: 3,
            under_way: &[0, 10],
            _server: Box::new(()),
        }
    })
    .await;
}
