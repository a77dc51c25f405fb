//! The address of a mailbox, as `channel: email` has it: a mail server and who gets the mail.

use super::part::{Part, invalid};
use crate::limits::RECIPIENTS_MAX;
use crate::problem::Problem;

/// What `channel: email` has of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmailSettings {
    /// The sender's address.
    pub from: Option<String>,
    /// The mail server is reached without TLS.
    pub is_plain: bool,
}

/// `smtps://HOST:PORT?to=…`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailAddress {
    /// The mail server: `smtps://HOST:PORT`.
    pub server: String,
    /// The recipients.
    pub to: Vec<String>,
}

impl EmailSettings {
    pub(super) fn read(part: &Part<'_>) -> Result<Self, Problem> {
        let from = part.text("from")?;
        if let Some(from) = from.as_ref().filter(|from| !is_mail_address(from)) {
            return Err(invalid("from", &format!("{from:?} is no mail address"))
                .with_hint("write an address such as hub@agency.example"));
        }
        let is_plain = part.word("tls", false, &[("required", false), ("none", true)])?;
        let is_smtps = part.text("url")?.is_some_and(|url| url.starts_with("smtps:"));
        if is_plain && (part.get("auth").is_some() || is_smtps) {
            return Err(invalid("tls", "without TLS there is neither smtps:// nor a password"));
        }
        Ok(Self { from, is_plain })
    }
}

impl MailAddress {
    /// Takes an address apart; `to` may stand several times, or hold several addresses with commas between.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (server, query) = url.split_once('?').unwrap_or((url, ""));
        let server = server.trim_end_matches('/');
        if server.splitn(4, '/').nth(3).is_some() {
            return Err("a mail server's address is a host and a port, then ?to=…".to_owned());
        }
        let mut to = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let ("to", addresses) = pair.split_once('=').unwrap_or((pair, "")) else {
                return Err("known after the ? is to=ADDRESS; the sender stands in `from`".to_owned());
            };
            to.extend(
                addresses.replace("%40", "@").replace("%2C", ",").replace("%2B", "+").split(',').map(str::to_owned),
            );
        }
        if to.is_empty() || to.len() > RECIPIENTS_MAX {
            return Err(format!("expected 1 to {RECIPIENTS_MAX} recipients: ?to=clerk@court.example"));
        }
        // Another code that stands for a character is none of an address.
        match to.iter().find(|address| address.contains('%') || !is_mail_address(address)) {
            Some(bad) => Err(format!("{bad:?} is no mail address")),
            None => Ok(Self { server: server.to_owned(), to }),
        }
    }
}

/// `local@domain`, of printable ASCII that needs no quoting: what every mail server takes, and nothing that could end a line.
pub(crate) fn is_mail_address(text: &str) -> bool {
    let is_plain = |c: u8| c.is_ascii_graphic() && !b"()<>[]:;@\\,\"".contains(&c);
    let parts: Vec<&str> = text.split('@').collect();
    text.len() <= 254 && parts.len() == 2 && parts.iter().all(|part| !part.is_empty() && part.bytes().all(is_plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_server_and_its_recipients() {
        let parsed =
            MailAddress::parse("smtps://mail.example:465/?to=a@x.example,b%40x.example&to=c+d@y.example").unwrap();
        assert_eq!(parsed.server, "smtps://mail.example:465");
        assert_eq!(parsed.to, ["a@x.example", "b@x.example", "c+d@y.example"]);
    }

    #[test]
    fn an_address_without_recipients_or_with_something_else_is_refused() {
        for url in [
            "smtps://mail.example",
            "smtps://mail.example?to=",
            "smtps://mail.example?to=clerk",
            "smtps://mail.example?to=a@x%0D%0ADATA",
            "smtps://mail.example?to=a@x>",
            "smtps://mail.example/inbox?to=a@x.example",
            "smtps://mail.example?cc=a@x.example",
            &format!("smtps://mail.example?to={}", vec!["a@x.example"; 21].join(",")),
        ] {
            assert!(MailAddress::parse(url).is_err(), "{url}");
        }
    }
}
