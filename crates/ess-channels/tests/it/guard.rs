//! No address gets past the guard, however it is written.

use ess_channels::{ChannelError, Credential};
use ess_core::receipt::{Failure, Receipt, Stage};

use crate::partner::{Partner, answered, dialer, failed, message, open, soon};

async fn send(url: &str, allow: &[&str]) -> Receipt {
    let dialer = dialer(allow, Vec::new());
    let channel = open(url, Credential::None, &dialer).unwrap();
    channel.send(&message(), soon()).await
}

#[tokio::test]
async fn loopback_is_refused_however_it_is_written() {
    let partner = Partner::echoing().await;
    let port = partner.address.port();
    for scheme in ["http", "https"] {
        for host in [
            "127.0.0.1",
            "127.1",
            "0177.0.0.1",
            "0x7f.0.0.1",
            "0x7f000001",
            "2130706433",
            "017700000001",
            "127.0.0.1.",
            "localhost",
            "LOCALHOST",
            "0.0.0.0",
            "0",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::127.0.0.1]",
            "[64:ff9b::127.0.0.1]",
            "[2002:7f00:1::]",
            "[fe80::1]",
            "[fd00:ec2::254]",
            "169.254.169.254",
        ] {
            let url = format!("{scheme}://{host}:{port}/hook");
            let dialer = dialer(&[], Vec::new());
            // Some forms are refused as no address at all, some as no name that is found; none is dialled.
            match open(&url, Credential::None, &dialer) {
                Err(ChannelError::Url(_)) => {}
                Err(error) => panic!("{url}: {error}"),
                Ok(channel) => {
                    let failure = failed(channel.send(&message(), soon()).await);
                    assert!(matches!(failure.stage, Stage::Guard | Stage::Resolve), "{url}: {failure:?}");
                }
            }
        }
    }
    assert_eq!(partner.connections(), 0);
}

#[tokio::test]
async fn the_reason_names_the_address_and_the_cure() {
    let expected = Failure {
        stage: Stage::Guard,
        reason: "127.0.0.1 is a loopback address, which the hub does not dial; allow it with --allow-net 127.0.0.1/32"
            .to_owned(),
    };
    assert_eq!(failed(send("https://127.0.0.1:9/", &[]).await), expected);
}

#[tokio::test]
async fn plain_http_to_a_public_address_is_refused() {
    let expected = Failure {
        stage: Stage::Guard,
        reason: "plain http to 1.1.1.1 is refused; use https, or allow it with --allow-net 1.1.1.1/32".to_owned(),
    };
    assert_eq!(failed(send("http://1.1.1.1:9/", &["127.0.0.0/8"]).await), expected);
}

#[tokio::test]
async fn what_is_allowed_is_dialled_under_its_name_too() {
    let partner = Partner::echoing().await;
    let port = partner.address.port();
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("http://{host}:{port}/hook");
        let answer = answered(send(&url, &["127.0.0.0/8", "::1/128"]).await);
        let head = String::from_utf8(answer.body.to_vec()).unwrap();
        assert!(head.contains(&format!("host: {host}:{port}")), "{head}");
    }
    // Of a name's addresses those that are not allowed are left out.
    let url = format!("http://localhost:{port}/hook");
    answered(send(&url, &["127.0.0.1/32"]).await);
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_named() {
    let failure = failed(send("https://no-such-name.invalid/hook", &[]).await);
    assert_eq!(failure.stage, Stage::Resolve);
    assert_eq!(failure.reason, "the name no-such-name.invalid was not found");
}

#[test]
fn an_address_that_cannot_be_used_says_why() {
    let dialer = dialer(&[], Vec::new());
    let long = format!("https://h/{}", "x".repeat(2048));
    for (url, why) in [
        ("ftp://partner.gov/", "it must begin with https:// or http://"),
        ("partner.gov/hook", "it is not a url"),
        ("/hook", "it must begin with https:// or http://"),
        ("https://", "it is not a url"),
        ("https://user:secret@partner.gov/", "it holds a user name; use `auth` instead"),
        ("https://partner.gov:99999/", "its port is not a number up to 65535"),
        ("https://partner.gov:0/", "its port is not a number up to 65535"),
        ("https://partner.gov:/", "its port is not a number up to 65535"),
        ("https://2130706433/", "its host is not a name or an address"),
        ("https://partner gov/", "it is not a url"),
        ("https://partner.gov/a b", "it is not a url"),
        ("https://partner.gov/\r\nx: y", "it is not a url"),
        ("https://[fe80::1%25eth0]/", "its host is not a name or an address"),
        (&long, "it is longer than 2,048 characters"),
    ] {
        let error = open(url, Credential::None, &dialer).unwrap_err();
        assert_eq!(error.to_string(), format!("the address cannot be used: {why}"), "{url}");
    }
}
