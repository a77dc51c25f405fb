//! The pull channel and a partner that fetches; what the HTTP side of it does is tested where that is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ess_channels::{Channel, Credential};
use serde_json::json;
use tokio::task::JoinSet;

use crate::conformance::{Described, conforms};
use crate::partner::{dialer, own_root, soon};

#[tokio::test]
async fn pull_does_what_every_channel_does() {
    conforms(async || {
        let partner = ess_core::partner::Partner::from_json(&json!({"id": "P", "channel": "pull"})).unwrap();
        let dialer = dialer(&["127.0.0.0/8"], vec![own_root()]);
        let channel = Arc::new(Channel::open(&partner, "", Credential::None, &dialer).unwrap());
        let taken = Arc::<Mutex<BTreeMap<String, Vec<u8>>>>::default();
        let (asked, noted) = (Arc::clone(&channel), Arc::clone(&taken));
        let mut asking = JoinSet::new();
        asking.spawn(async move {
            while let Some(messages) = asked.pull().unwrap().take(4, soon()).await {
                let mut noted = noted.lock().unwrap();
                noted.extend(messages.into_iter().map(|message| (message.file_name(), message.body.to_vec())));
            }
        });
        Described {
            channel,
            link: None,
            delivered: Box::new(move || taken.lock().unwrap().clone().into_iter().collect()),
            shape: |message| message,
            // The partner's no is a word of its own, which comes later.
            refuse: None,
            connections: 0,
            under_way: &[],
            _server: Box::new(asking),
        }
    })
    .await;
}
