//! What is found and taken away of a partner's directory, on a share and on OpenSSH's server.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use ess_channels::{Channel, Credential, Search};
use serde_json::json;

use crate::partner::{dialer_with_dir, document, soon};
use crate::sshd::Sshd;

const DAY: Duration = Duration::from_secs(86_400);

fn write(dir: &Path, name: &str, modified: SystemTime) {
    std::fs::write(dir.join(name), "{}").unwrap();
    File::options().write(true).open(dir.join(name)).unwrap().set_modified(modified).unwrap();
}

async fn names(channel: &Channel, search: &Search) -> Vec<String> {
    let left = channel.left(search.clone(), soon()).await.unwrap();
    left.into_iter().map(|left| left.name).collect()
}

/// The channel has receipts by the pattern `acks/{id}.ack`.
async fn only_old_files_of_the_hubs_naming_go(channel: &Channel, dir: &Path) {
    let now = SystemTime::now();
    let search = Search { before: now - DAY, after: String::new() };
    assert_eq!(names(channel, &search).await, [""; 0]);
    std::fs::create_dir(dir.join("acks")).unwrap();
    let ours = ["RULE-1-V3.v3.json", "RULE-2-V3.v3.json.1.part", "acks/RULE-1-V3.ack", "test_RULE-1-V3.v3.json"];
    let others = ["notes.txt", "RULE-1-V3.v3.xml", "RULE-1-V3.ack", "acks/RULE-1-V3.ok", "RULE-1-V3.v03.json"];
    for name in ours.iter().chain(&others) {
        write(dir, name, now - 2 * DAY);
    }
    write(dir, "RULE-3-V3.v3.json", now);
    std::fs::create_dir(dir.join("RULE-4-V3.v3.json")).unwrap();
    std::os::unix::fs::symlink("notes.txt", dir.join("RULE-5-V3.v3.json")).unwrap();
    assert_eq!(names(channel, &search).await, ours);
    let rest = Search { after: ours[1].to_owned(), ..search.clone() };
    assert_eq!(names(channel, &rest).await, &ours[2..]);

    // What became young meanwhile stays, as does a link in the place of a file.
    write(dir, ours[0], now);
    let wanted = ours.iter().copied().chain(["RULE-5-V3.v3.json", "gone.json"]).map(str::to_owned).collect();
    assert_eq!(channel.clean(wanted, search.clone(), soon()).await.unwrap(), 3);
    assert_eq!(names(channel, &search).await, [""; 0]);
    for name in others.iter().chain(&[ours[0], "RULE-3-V3.v3.json", "RULE-4-V3.v3.json"]) {
        assert!(dir.join(name).exists(), "{name} is gone");
    }
    assert!(dir.join("RULE-5-V3.v3.json").symlink_metadata().is_ok());
}

#[tokio::test]
async fn old_drops_go_from_a_share() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().display());
    let partner = document("file", &url, json!({"ack": {"pattern": "acks/{id}.ack"}}));
    let channel = Channel::open(&partner, &url, Credential::None, &dialer_with_dir(dir.path())).unwrap();
    only_old_files_of_the_hubs_naming_go(&channel, dir.path()).await;
}

#[tokio::test]
async fn old_drops_go_from_an_sftp_server() {
    let sshd = Sshd::start().await;
    let url = format!("sftp://{}{}", sshd.address, sshd.inbox.display());
    let more = json!({"host_key": sshd.host_key, "ack": {"pattern": "acks/{id}.ack"}});
    let partner = document("sftp", &url, more);
    let channel = Channel::open(&partner, &url, sshd.key(), &dialer_with_dir(&sshd.inbox)).unwrap();
    only_old_files_of_the_hubs_naming_go(&channel, &sshd.inbox).await;
}

#[tokio::test]
async fn a_large_directory_is_judged_in_steps() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().display());
    let partner = document("file", &url, json!({}));
    let channel = Channel::open(&partner, &url, Credential::None, &dialer_with_dir(dir.path())).unwrap();
    let now = SystemTime::now();
    for number in 0..600 {
        write(dir.path(), &format!("RULE-{number:03}.v1.json"), now - 2 * DAY);
    }
    let (mut search, mut steps) = (Search { before: now - DAY, after: String::new() }, Vec::new());
    loop {
        let found = names(&channel, &search).await;
        let Some(last) = found.last() else { break };
        search.after.clone_from(last);
        steps.push(found.len());
    }
    assert_eq!(steps, [256, 256, 88]);
}
