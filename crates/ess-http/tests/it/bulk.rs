//! NDJSON: every line stands alone, and the log has them in their order.

use crate::support::TestHub;

async fn send(hub: &TestHub, body: &str) -> crate::support::Reply {
    hub.ask_as(&hub.admin, "POST", "/v1/events", &["content-type: application/x-ndjson"], body.as_bytes()).await
}

#[tokio::test]
async fn lines_are_recorded_in_their_order_and_judged_one_by_one() {
    let hub = TestHub::start().await;
    let mut body = String::new();
    for number in 1..=1_000 {
        match number {
            500 => body.push_str("{\"id\": \"broken\n"),
            600 => body.push_str("{\"id\": \"BULK-V1\", \"version\": 1, \"payload\": 1}\n"),
            700 => body.push_str("\r\n"),
            number => {
                body.push_str(&format!("{{\"id\": \"BULK-V{number}\", \"version\": 1, \"payload\": {number}}}\n"))
            }
        }
    }
    let reply = send(&hub, &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let results = reply.json();
    let counts = (results["recorded"].as_u64(), results["duplicates"].as_u64(), results["refused"].as_u64());
    assert_eq!(counts, (Some(997), Some(1), Some(1)));
    let lines: Vec<u64> =
        results["results"].as_array().unwrap().iter().map(|result| result["line"].as_u64().unwrap()).collect();
    assert!(lines.is_sorted() && lines.len() == 999 && !lines.contains(&700));
    assert_eq!(results["results"][499]["problem"]["code"], "malformed");
    assert_eq!(results["results"][599]["receipt"]["duplicate"], true);
    let sequences: Vec<u64> = results["results"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|result| result["status"] == 202)
        .map(|result| result["receipt"]["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(sequences, (1..=997).collect::<Vec<_>>());
    // The log is read page by page to the end.
    let (mut after, mut seen) = ("0".to_owned(), Vec::new());
    loop {
        let page = hub.get(&format!("/v1/events?after={after}&limit=300")).await.json();
        seen.extend(page["items"].as_array().unwrap().iter().map(|item| item["sequence"].as_u64().unwrap()));
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, sequences);
    hub.finish().await;
}

#[tokio::test]
async fn a_retraction_may_follow_what_it_takes_back_in_one_body() {
    let hub = TestHub::start().await;
    let body = "{\"id\": \"A-V1\", \"version\": 1, \"payload\": 1}\n\
                {\"id\": \"A-V2\", \"version\": 1, \"payload\": null, \"kind\": \"retraction\", \"references\": [\"A-V1\"]}\n";
    let results = send(&hub, body).await.json();
    assert_eq!(results["recorded"], 2, "{results}");
    hub.finish().await;
}

#[tokio::test]
async fn too_many_lines_are_refused_whole() {
    let hub = TestHub::start().await;
    send(&hub, &"{}\n".repeat(100_001)).await.problem(413, "too_large");
    assert_eq!(send(&hub, "").await.json()["recorded"], 0);
    hub.finish().await;
}
