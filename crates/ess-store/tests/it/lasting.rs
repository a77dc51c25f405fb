//! What outlives the process: a second opening, secrets, and bytes that somebody changed.

use crate::support::{Open, acked, audit, key, open, partner};

/// Ten events for two partners, all acknowledged by the first one.
pub(crate) async fn filled() -> Open {
    let open = open();
    open.add_partners(2).await;
    for number in 1..=10 {
        let seq = open.publish(&format!("A-{number}"), 2).await;
        open.record(vec![acked(key(seq, 1))]).await;
    }
    open
}

#[tokio::test]
async fn the_ledger_names_what_was_changed_or_taken_out() {
    // As either database says it.
    let tampers = [
        (
            "update ledger set entries = cast(x'00' || substr(entries, 2) as blob) where first = 4",
            "update ledger set entries = set_byte(entries, 0, 0) where first = 4",
            "ledger entry 4",
        ),
        (
            "update ledger set chain = zeroblob(32) where first = 7",
            "update ledger set chain = decode(repeat('00', 32), 'hex') where first = 7",
            "ledger entry 7",
        ),
        ("delete from ledger where first = 3", "delete from ledger where first = 3", "ledger entry 3"),
        (
            "update ledger set seq = seq + 1 where first = 5",
            "update ledger set seq = seq + 1 where first = 5",
            "ledger entry 5",
        ),
    ];
    for (tamper, tamper_there, named) in tampers {
        let open = filled().await;
        assert_eq!(open.store.verify_ledger().await.unwrap().0, 10);
        let open = open.reopen_after(tamper, tamper_there).await;
        let said = open.store.verify_ledger().await.unwrap_err().to_string();
        assert!(said.contains(named), "{tamper}: {said}");
    }
}

#[tokio::test]
async fn partners_and_secrets_are_there_after_a_restart_and_not_in_the_clear() {
    let open = open();
    open.add_partners(3).await;
    open.store
        .remove_partner(ess_core::id::PartnerNo(2), ess_core::time::Time::from_micros(9), audit("x"))
        .await
        .unwrap();
    let secrets = vec![("whsec_VERYSECRET".to_owned(), None)];
    let changed = ess_store::NewPartner { no: Some(ess_core::id::PartnerNo(1)), secrets, ..partner("P1") };
    open.store.put_partner(changed, audit("partner.put")).await.unwrap();
    let open = open.reopen().await;
    let names: Vec<(&str, bool)> =
        open.start.partners.iter().map(|stored| (stored.id.as_str(), stored.removed_at.is_some())).collect();
    assert_eq!(names, [("P1", false), ("P2", true), ("P3", false)]);
    assert_eq!(open.start.partners[0].secrets[0].0, "whsec_VERYSECRET");
    for name in ["ess.db", "ess.db-wal"] {
        let bytes = std::fs::read(open.dir.path().join(name)).unwrap_or_default();
        assert!(!bytes.windows(10).any(|window| window == b"VERYSECRET"), "{name}");
    }
    assert!(open.store.audit(0, 10).await.unwrap().len() >= 5);
}
