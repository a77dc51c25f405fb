//! What a partner's document may hold for each channel, and what it is told where it may not.

use serde_json::{Value, json};

use super::*;
use crate::partner::{Partner, Secrets, Settings, Write};
use crate::partner_file::PartnerFile;

fn read(more: Value) -> Result<Partner, Problem> {
    let mut document = json!({"id": "P"});
    document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Partner::from_json(&document)
}

#[track_caller]
fn check_refused(more: Value, field: &str, hint: &str) {
    let problem = read(more).expect_err(field);
    assert_eq!(problem.field.as_deref(), Some(field), "{problem:?}");
    assert!(problem.hint.clone().unwrap_or_default().contains(hint), "{problem:?}");
}

#[track_caller]
fn check_read_back(more: Value) -> Partner {
    let partner = read(more).unwrap();
    assert_eq!(Partner::from_json(&partner.to_json(Secrets::Shown)).unwrap(), partner);
    partner
}

#[test]
fn each_channels_page_begins_with_a_partner_that_is_taken() {
    for page in [
        #[cfg(feature = "kafka")]
        include_str!("../../../../../docs/channels/kafka.md"),
        include_str!("../../../../../docs/channels/file.md"),
        include_str!("../../../../../docs/channels/sftp.md"),
        include_str!("../../../../../docs/channels/email.md"),
        include_str!("../../../../../docs/channels/s3.md"),
    ] {
        let yaml = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        PartnerFile::parse(yaml, "p.yaml").unwrap().check().unwrap();
    }
}

#[test]
fn each_channel_has_a_row_and_examples_that_fit_it() {
    for rule in &RULES {
        assert_eq!(rule.kind.word(), rule.word);
        assert!(!rule.acks.is_empty());
        if !rule.schemes.is_empty() {
            rule.kind.check_url(rule.example, "url").unwrap();
        }
    }
}

#[test]
fn what_does_not_fit_a_channel_is_refused_by_name() {
    let webhook = json!({"url": "https://p.example", "host_key": "ssh-ed25519 AAAA"});
    check_refused(webhook, "host_key", "it belongs to sftp");
    check_refused(json!({"channel": "file", "url": "file:///x", "headers": {"a": "b"}}), "headers", "webhook");
    check_refused(json!({"channel": "file", "url": "file:///x", "auth": {"bearer": "t"}}), "auth.bearer", "leave");
    check_refused(json!({"channel": "sftp", "url": "sftp://x/y", "auth": {"bearer": "t"}}), "auth.bearer", "password");
    check_refused(json!({"url": "https://p.example", "auth": {"password": "t"}}), "auth.password", "bearer");
    check_refused(json!({"channel": "sftp", "url": "sftp://x/y", "ack": {"by": "body"}}), "ack.by", "status, file");
    check_refused(json!({"url": "https://p.example", "ack": {"pattern": "{id}.ack"}}), "ack.by", "callback");
    check_refused(json!({"channel": "telex", "url": "x"}), "channel", "this build delivers by webhook");
    check_refused(json!({"channel": "webhok", "url": "x"}), "channel", "`webhook`");
}

#[test]
fn an_address_has_the_scheme_of_its_channel() {
    for (channel, url) in [
        ("webhook", "sftp://x"),
        ("sftp", "https://x/y"),
        ("sftp", "sftp:///dir"),
        ("sftp", "sftp://user:password@x/y"),
        ("sftp", "sftp://x/y#z"),
        ("file", "file://host/dir"),
        ("file", "file:///mnt/../etc"),
        ("file", "/mnt/x"),
        ("email", "smtps://mail.example"),
        ("s3", "s3://B/x"),
        ("s3", "s3://bucket/../x"),
        ("s3", "s3://key:secret@bucket/x"),
        ("s3", "s3://bucket/x?y"),
        ("email", "smtps://clerk@court.example"),
        ("email", "smtps://user:password@mail.example?to=a@x.example"),
    ] {
        check_refused(json!({"channel": channel, "url": url}), "url", "://");
    }
}

#[test]
fn a_receipts_default_is_the_channels_and_a_pattern_means_a_file() {
    let by = |more: Value| read(more).unwrap().ack;
    let drop = |ack: Value| json!({"channel": "file", "url": "file:///x", "ack": ack});
    assert_eq!(by(json!({"url": "https://p.example"})).by, AckBy::Body);
    assert_eq!(by(drop(json!({}))).by, AckBy::Status);
    let ack = by(drop(json!({"pattern": "out/{name}.ack"})));
    assert_eq!((ack.by, ack.place.as_deref()), (AckBy::File, Some("out/{name}.ack")));
    assert_eq!(by(drop(json!({"by": "file"}))).place.as_deref(), Some("{id}.ack"));
    for pattern in ["x.ack", "../{id}.ack", "/{id}", "a//{id}", "{id}.{x}", "{id}\u{0}", "{id}.part", "", "{id}/"] {
        check_refused(drop(json!({"by": "file", "pattern": pattern})), "ack.pattern", "{id}.ack");
    }
    assert!(read(drop(json!({"by": "status", "pattern": "{id}"}))).is_err());
}

#[test]
fn what_only_email_has_is_read_back_as_it_was() {
    let email = |more: Value| {
        let mut document = json!({"channel": "email", "url": "smtp://m.example?to=a@x.example"});
        document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        document
    };
    let partner = check_read_back(email(json!({"from": "hub@x.example", "tls": "none"})));
    let Settings::Email(settings) = &partner.settings else { panic!("no settings") };
    assert_eq!((settings.from.as_deref(), settings.is_plain), (Some("hub@x.example"), true));
    assert_eq!((partner.ack.by, partner.ack.within.as_secs()), (AckBy::Callback, 4 * 3_600));
    check_read_back(email(json!({"auth": {"user": "u", "password": "p"}, "ack": {"by": "status"}})));
    check_refused(email(json!({"from": "hub@x\r\nBcc: all@x"})), "from", "hub@agency.example");
    check_refused(email(json!({"ack": {"by": "body"}})), "ack.by", "callback, status");
    let plain = email(json!({"tls": "none", "auth": {"user": "u", "password": "p"}}));
    assert_eq!(read(plain).unwrap_err().field.as_deref(), Some("tls"));
}

#[test]
fn what_only_sftp_has_is_read_back_as_it_was() {
    let sftp = |more: Value| {
        let mut document = json!({"channel": "sftp", "url": "sftp://hms@x/y", "auth": {"key": "k", "passphrase": "p"}});
        document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        document
    };
    let line = "[x]:2222 ssh-ed25519 AAAAC3Nz comment";
    let fingerprint = format!("SHA256:{}", "a".repeat(43));
    let partner = check_read_back(sftp(json!({"host_key": [line, fingerprint], "write": "once"})));
    let Settings::Sftp(settings) = &partner.settings else { panic!("no settings") };
    assert_eq!(settings.host_key, ["ssh-ed25519 AAAAC3Nz".to_owned(), fingerprint]);
    assert_eq!(settings.write, Write::Once);
    let shown = partner.to_json(Secrets::Masked)["auth"].to_string();
    assert_eq!(shown, r#"{"key":"(sealed)","passphrase":"(sealed)"}"#);
    check_read_back(sftp(json!({"host_key": "ssh-ed25519 AAAAC3Nz", "auth": {"user": "u", "password": "x"}})));
    check_read_back(sftp(json!({})));
    for wrong in [json!("ed25519"), json!(""), json!([]), json!("SHA256:abc"), json!("ssh-ed25519 key")] {
        check_refused(sftp(json!({"host_key": wrong})), "host_key", "partner test");
    }
    check_refused(sftp(json!({"auth": {"key": "k", "password": "p"}})), "auth.password", "");
}

#[test]
fn what_a_broker_cannot_take_is_refused_when_it_is_written() {
    let broker = |channel: &str, url: &str| json!({"channel": channel, "url": url});
    for url in ["nats://x", "nats://x/rules.>", "nats://x/a..b", "nats://x/rules.{event}", "mqtt://x/y"] {
        check_refused(broker("nats", url), "url", "natss://broker.example/rules.{subject}");
    }
    for url in ["amqp://x", "amqp://x/court", "amqp://x//rules", "amqp://u:p@x/court/rules", "amqp://x/v//"] {
        check_refused(broker("amqp", url), "url", "amqps://broker.example/vhost/exchange/{subject}");
    }
    let login = json!({"channel": "amqp", "url": "amqp://x/%2F/rules", "auth": {"password": "p"}});
    check_refused(login, "auth.user", "");
    check_read_back(json!({"channel": "nats", "url": "natss://x/r.{subject}", "auth": {"password": "token"}}));
    let auth = json!({"user": "u", "password": "p"});
    let ack = json!({"by": "callback"});
    check_read_back(json!({"channel": "amqp", "url": "amqps://x/%2F/r/{id}", "auth": auth, "ack": ack}));
    let topic = json!({"channel": "amqp", "url": "amqps://x/v/e", "ack": {"topic": "acks"}});
    check_refused(topic, "ack.by", "status, callback");
}

#[cfg(feature = "kafka")]
#[test]
fn what_a_kafka_cluster_cannot_take_is_refused_when_it_is_written() {
    for url in
        ["kafka://x", "kafka://x/", "kafka://x/a/b", "kafka://x/__offsets", "kafka://u:p@x/a", "kafka://x/{event}"]
    {
        check_refused(json!({"channel": "kafka", "url": url}), "url", "kafkas://broker.example/rules");
    }
    let kafka = |more: Value| {
        let mut document = json!({"channel": "kafka", "url": "kafkas://b.example/rules.{subject}"});
        document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        document
    };
    let partner = check_read_back(kafka(json!({"sasl": "scram-sha-512", "auth": {"user": "u", "password": "p"}})));
    assert_eq!(
        partner.settings,
        Settings::Kafka(crate::partner::KafkaSettings { sasl: crate::partner::Sasl::ScramSha512 })
    );
    check_read_back(kafka(json!({"ack": {"by": "callback"}})));
    check_refused(kafka(json!({"auth": {"password": "p"}})), "auth.user", "");
    check_refused(kafka(json!({"sasl": "gssapi"})), "sasl", "");
    check_refused(json!({"url": "https://p.example", "sasl": "plain"}), "sasl", "it belongs to kafka");
}

#[cfg(not(feature = "kafka"))]
#[test]
fn a_build_without_kafka_says_so() {
    check_refused(json!({"channel": "kafka", "url": "kafka://x/rules"}), "channel", "this build delivers by");
}

#[test]
fn only_drops_are_cleaned_up() {
    let partner = check_read_back(json!({"channel": "file", "url": "file:///x", "clean": {"after": "30d"}}));
    assert_eq!(partner.clean_after, Some(std::time::Duration::from_secs(30 * 86_400)));
    check_read_back(json!({"channel": "sftp", "url": "sftp://x/y", "clean": {"after": "1s"}}));
    check_refused(json!({"url": "https://p.example", "clean": {"after": "1d"}}), "clean", "it belongs to sftp, file");
    for wrong in [json!({"after": "0s"}), json!({"after": "11y"}), json!({})] {
        check_refused(json!({"channel": "file", "url": "file:///x", "clean": wrong}), "clean.after", "");
    }
}

#[test]
fn the_topic_of_receipts_is_told_with_the_partners_name() {
    let ack = json!({"topic": "acks/{partner}"});
    let partner = read(json!({"channel": "mqtt", "url": "mqtts://b.example/r/{subject}", "ack": ack})).unwrap();
    assert_eq!(partner.ack.of_partner(&partner.id).awaited(), "the ACK comes on the topic acks/P");
}
