//! What `channel: s3` has of its own: where the store is.

use super::channel::checked_http_url;
use super::part::{Part, invalid};
use crate::problem::Problem;

/// Where a partner's store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Settings {
    /// Its address; without one, AWS's of the region.
    pub endpoint: Option<String>,
    /// Its region; stores that have none take any.
    pub region: String,
}

impl S3Settings {
    pub(super) fn read(part: &Part<'_>) -> Result<Self, Problem> {
        let endpoint = part.text("endpoint")?;
        let endpoint = endpoint.map(|url| checked_http_url(url.trim_end_matches('/'), "endpoint")).transpose()?;
        let region = part.text("region")?.unwrap_or_else(|| "us-east-1".to_owned());
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if region.is_empty() || region.len() > 64 || !region.chars().all(is_plain) {
            return Err(invalid("region", "expected a region such as eu-central-1"));
        }
        Ok(Self { endpoint, region })
    }
}

/// A bucket and a prefix, of characters that no store takes for something else.
pub(super) fn check_bucket(rest: &str) -> Result<(), &'static str> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let is_bucket = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
    if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(is_bucket) {
        return Err("expected a bucket's name: 3 to 63 lower-case letters, digits, `.` and `-`");
    }
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-=+@/".contains(c);
    let is_odd = |name: &str| matches!(name, "" | "." | "..");
    if !prefix.is_empty() && (!prefix.chars().all(is_plain) || prefix.split('/').any(is_odd)) {
        return Err("expected a prefix of letters, digits, `. _ - = + @` and `/`");
    }
    Ok(())
}
