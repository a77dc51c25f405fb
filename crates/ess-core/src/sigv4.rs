//! Requests to S3-compatible stores, signed (AWS Signature Version 4, the header form with a signed payload).
//!
//! Source: "Authenticating Requests: Using the Authorization Header" of the S3 API reference. The secret never leaves this file.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::time::Time;

/// Who signs, and for where.
pub struct Signer {
    /// The access key's id.
    pub key_id: String,
    /// The access key's secret.
    pub secret: Zeroizing<String>,
    /// The store's region.
    pub region: String,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("key_id", &self.key_id).field("region", &self.region).finish_non_exhaustive()
    }
}

/// What is signed.
#[derive(Debug, Clone)]
pub struct Unsigned<'a> {
    /// `PUT`, `GET` or `DELETE`.
    pub method: &'a str,
    /// The encoded path; there is no query.
    pub path: &'a str,
    /// Every field that is to be signed, `host` among them; names in lower case.
    pub fields: Vec<(String, String)>,
    /// The body.
    pub body: &'a [u8],
}

impl Signer {
    /// All fields to send: the given ones, the date, the body's digest and `authorization`.
    #[must_use]
    pub fn sign(&self, unsigned: Unsigned<'_>, now: Time) -> Vec<(String, String)> {
        let Unsigned { method, path, mut fields, body } = unsigned;
        let date = amz_date(now);
        let day = date.get(..8).unwrap_or_default();
        let digest = hex(&Sha256::digest(body));
        fields.push(("x-amz-content-sha256".to_owned(), digest.clone()));
        fields.push(("x-amz-date".to_owned(), date.clone()));
        fields.sort();
        let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(";");
        let mut request = format!("{method}\n{path}\n\n");
        for (name, value) in &fields {
            let value = value.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
            // Writing to a string never fails.
            let _ = writeln!(request, "{name}:{value}");
        }
        let _ = write!(request, "\n{names}\n{digest}");
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(request.as_bytes())));
        let mut key = Zeroizing::new(format!("AWS4{}", self.secret.as_str()).into_bytes());
        for part in [day, &self.region, "s3", "aws4_request"] {
            key = Zeroizing::new(mac(&key, part));
        }
        let signature = hex(&mac(&key, &text));
        let key_id = &self.key_id;
        let authorization =
            format!("AWS4-HMAC-SHA256 Credential={key_id}/{scope},SignedHeaders={names},Signature={signature}");
        fields.push(("authorization".to_owned(), authorization));
        fields
    }
}

/// A path's text as a store's canonical request has it: all but unreserved characters and `/` are encoded.
#[must_use]
pub fn encoded_path(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// `20130524T000000Z`.
fn amz_date(now: Time) -> String {
    let text = now.to_string();
    let digits: String = text.chars().take(19).filter(|c| !matches!(c, '-' | ':')).collect();
    format!("{digits}Z")
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    // Invariant: HMAC takes keys of any length.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(unsigned: Unsigned<'_>, signature: &str) {
        let signer = Signer {
            key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: Zeroizing::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned()),
            region: "us-east-1".to_owned(),
        };
        // 2013-05-24T00:00:00Z
        let fields = signer.sign(unsigned, Time::from_micros(1_369_353_600_000_000));
        let (_, authorization) = fields.last().unwrap();
        assert!(authorization.ends_with(&format!("Signature={signature}")), "{fields:?}");
        assert!(!format!("{signer:?}").contains("wJalr"));
    }

    fn field(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn the_examples_of_the_api_reference_are_signed_as_there() {
        let host = field("host", "examplebucket.s3.amazonaws.com");
        check(
            Unsigned {
                method: "GET",
                path: "/test.txt",
                fields: vec![host.clone(), field("range", "bytes=0-9")],
                body: b"",
            },
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        );
        check(
            Unsigned {
                method: "PUT",
                path: &encoded_path("/test$file.text"),
                fields: vec![
                    field("date", "Fri, 24 May 2013 00:00:00 GMT"),
                    host,
                    field("x-amz-storage-class", "REDUCED_REDUNDANCY"),
                ],
                body: b"Welcome to Amazon S3.",
            },
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        );
    }
}
