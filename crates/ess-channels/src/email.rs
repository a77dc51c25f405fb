//! The channel by e-mail: one mail per delivery, the content in words, the message itself attached.
//!
//! That the server took the mail for every recipient is all that is confirmed here; who read it says so by the link in it. A server
//! that says no to one recipient gets no mail for the others either.

use std::time::Duration;

use ess_core::letter::{ACK_LINK, Letter};
use ess_core::message::Message;
use ess_core::partner::{MailAddress, Partner, Settings};
use ess_core::receipt::{Failure, Receipt, Stage};
use ess_core::time::Time;
use tokio::time::Instant;

use crate::channel::ChannelError;
use crate::credential::Credential;
use crate::dialer::Dialer;
use crate::limits::REASON_CHARS_MAX;
use crate::mail::{Attachment, Mail};
use crate::smtp::{MailError, Mailer, MailerOptions};

/// Mails to a partner's people.
#[derive(Debug)]
pub struct Email {
    mailer: Mailer,
    from: String,
    to: Vec<String>,
}

impl Email {
    /// Sets it up; nothing is dialled yet.
    ///
    /// # Errors
    /// The address or the login can't be used.
    pub fn open(partner: &Partner, url: &str, credential: Credential, dialer: &Dialer) -> Result<Email, ChannelError> {
        let Settings::Email(settings) = &partner.settings else {
            return Err(ChannelError::Option("the partner is none of `channel: email`".to_owned()));
        };
        let MailAddress { server, to } = MailAddress::parse(url).map_err(ChannelError::Url)?;
        let from = settings.from.clone().unwrap_or_else(|| sender(&credential, &server));
        let options = MailerOptions { url: &server, is_plain: settings.is_plain, credential };
        Ok(Email { mailer: Mailer::open(options, dialer)?, from, to })
    }

    /// Hands one mail over.
    pub async fn send(&self, message: &Message, deadline: Instant) -> Receipt {
        let mail = mail(message, &self.from, &self.to);
        match self.mailer.send(&mail, deadline).await {
            Ok(()) => Receipt::Confirmed,
            Err(error) => judge(error),
        }
    }
}

/// The sender when none is given: who logs in, if that is an address, else a name at the mail server's host.
fn sender(credential: &Credential, server: &str) -> String {
    if let Credential::Password { user: Some(user), .. } = credential
        && MailAddress::parse(&format!("smtps://x?to={user}")).is_ok_and(|address| address.to == [user.clone()])
    {
        return user.clone();
    }
    let host = server.split("://").nth(1).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let is_name = name.parse::<std::net::IpAddr>().is_err() && !name.starts_with('[') && !name.is_empty();
    format!("hms-ess@{}", if is_name { name } else { "localhost" })
}

fn mail(message: &Message, from: &str, to: &[String]) -> Mail {
    let field = |name: &str| message.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    // The time at which it was signed is the one that it bears.
    let signed_s = field("webhook-timestamp").and_then(|text| text.parse().ok()).unwrap_or_default();
    let letter = Letter::of(message, field(ACK_LINK));
    let is_told = |name: &str| name.starts_with("x-hms-") || name.starts_with("webhook-");
    let headers = message.headers.iter().filter(|(name, _)| is_told(name));
    let headers = headers.map(|(name, value)| (title_case(name), value.clone())).collect();
    Mail {
        id: message.id.clone(),
        from: from.to_owned(),
        to: to.to_vec(),
        subject: letter.subject,
        text: letter.text,
        html: Some(letter.html),
        attachment: Some(Attachment {
            name: message.file_name(),
            media_type: message.content_type.clone(),
            bytes: message.body.clone(),
        }),
        headers,
        at: Time::from_micros(0).after(Duration::from_secs(signed_s)),
    }
}

/// `x-hms-event-id` as `X-HMS-Event-Id`.
fn title_case(name: &str) -> String {
    let parts = name.split('-').map(|part| match part {
        "hms" => "HMS".to_owned(),
        part => {
            let mut letters = part.chars();
            letters
                .next()
                .map_or_else(String::new, |first| format!("{}{}", first.to_ascii_uppercase(), letters.as_str()))
        }
    });
    parts.collect::<Vec<_>>().join("-")
}

/// What a server's no means. From 500 on it will not say yes to the same mail, with three exceptions: what it said before it heard
/// of the mail is not about the mail; 552 to a recipient is to be taken as 452 (RFC 5321, 4.5.3.1.10); and some servers put a
/// stranger off (greylisting) by a 5xx whose words or whose extended status (RFC 3463) say that it will pass.
fn judge(error: MailError) -> Receipt {
    let reason: String = error.to_string().chars().take(REASON_CHARS_MAX).collect();
    match error {
        MailError::Failed(failure) => Receipt::Failed(failure),
        MailError::Refused { code, step, text } => {
            let is_about_mail = matches!(step, "MAIL FROM" | "RCPT TO" | "DATA" | "the mail");
            let words = text.to_ascii_lowercase();
            let passes = (code == 552 && step == "RCPT TO")
                || text.starts_with("4.")
                || ["greylist", "graylist", "grey-list", "gray-list"].iter().any(|word| words.contains(word));
            if code >= 500 && is_about_mail && !passes {
                return Receipt::Refused { reason };
            }
            let stage = if is_about_mail { Stage::Send } else { Stage::Auth };
            Receipt::Failed(Failure { stage, reason })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, step: &'static str, text: &str) -> Receipt {
        judge(MailError::Refused { code, step, text: text.to_owned() })
    }

    #[test]
    fn a_no_for_good_ends_the_delivery_and_a_no_for_now_does_not() {
        for (code, step, text) in [
            (550, "RCPT TO", "5.1.1 no such user"),
            (554, "the mail", "spam"),
            (552, "the mail", "5.3.4 too big"),
            (553, "MAIL FROM", ""),
        ] {
            assert!(matches!(refused(code, step, text), Receipt::Refused { .. }), "{code} {step}");
        }
        for (code, step, text) in [
            (450, "RCPT TO", "4.2.0 greylisted, come back in 5 minutes"),
            (421, "the mail", "closing"),
            (552, "RCPT TO", "too many recipients"),
            (550, "RCPT TO", "5.7.1 Greylisting in action"),
            (554, "RCPT TO", "4.7.1 try later"),
            (535, "AUTH", "5.7.8 bad credentials"),
            (554, "the connection", "no service"),
        ] {
            let receipt = refused(code, step, text);
            assert!(
                matches!(&receipt, Receipt::Failed(failure) if failure.reason.contains(&code.to_string())),
                "{receipt:?}"
            );
        }
    }

    #[test]
    fn the_sender_is_who_logs_in_or_a_name_at_the_servers_host() {
        let login = |user: &str| Credential::Password { user: Some(user.to_owned()), password: "x".to_owned() };
        assert_eq!(sender(&login("hub@x.example"), "smtps://m.example"), "hub@x.example");
        assert_eq!(sender(&login("hub"), "smtps://m.example:465"), "hms-ess@m.example");
        assert_eq!(sender(&Credential::None, "smtp://192.0.2.7:25"), "hms-ess@localhost");
        assert_eq!(sender(&Credential::None, "smtp://[2001:db8::1]:25"), "hms-ess@localhost");
    }

    #[test]
    fn a_headers_name_is_written_as_mails_have_it() {
        assert_eq!(title_case("x-hms-event-id"), "X-HMS-Event-Id");
    }
}
