//! Mails by SMTP (RFC 5321) over the guarded dialer: one mail per connection, within one deadline.
//!
//! A password is never sent without TLS, and after STARTTLS nothing counts that was said before it (RFC 3207). A server's words are
//! bounded; how many recipients it takes is all or none.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ess_core::receipt::{Failure, Stage};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::channel::ChannelError;
use crate::credential::Credential;
use crate::dialer::{Dialer, protect};
use crate::limits::{REASON_CHARS_MAX, SMTP_LINE_BYTES_MAX, SMTP_LINES_MAX};
use crate::mail::Mail;
use crate::progress::Progress;
use crate::stream::Stream;
use crate::target::{SMTP, SMTP_PLAIN, Security, Target};
use crate::wire::io_words;

/// How a mail server is reached.
#[derive(Debug)]
pub struct MailerOptions<'a> {
    /// `smtp://HOST:PORT` (STARTTLS) or `smtps://HOST:PORT` (TLS from the beginning).
    pub url: &'a str,
    /// `smtp://` without TLS: only to addresses that the operator allowed, and without a password.
    pub is_plain: bool,
    /// A user and a password, or none.
    pub credential: Credential,
}

/// Sends mails through one server.
pub struct Mailer {
    target: Target,
    dialer: Dialer,
    security: Tls,
    login: Option<Login>,
}

/// When TLS begins.
enum Tls {
    First(TlsConnector),
    Start(TlsConnector),
    Never,
}

struct Login {
    user: String,
    password: Zeroizing<String>,
}

/// Why a mail was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MailError {
    /// The server was not reached, or the connection broke.
    #[error("{}", .0.reason)]
    Failed(Failure),
    /// The server said no; from 500 on it will not say yes to the same mail.
    #[error("the mail server answered {code} to {step}: {text}")]
    Refused {
        /// Its reply code.
        code: u16,
        /// Which step.
        step: &'static str,
        /// Its words, bounded.
        text: String,
    },
}

impl std::fmt::Debug for Mailer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailer").field("host", &self.target.host).finish_non_exhaustive()
    }
}

impl Mailer {
    /// Sets it up; nothing is dialled yet.
    ///
    /// # Errors
    /// The address or the login can't be used.
    pub fn open(options: MailerOptions<'_>, dialer: &Dialer) -> Result<Mailer, ChannelError> {
        let target = Target::parse(options.url, if options.is_plain { &SMTP_PLAIN } else { &SMTP })?;
        if target.path != "/" || target.user.is_some() {
            let why = "a mail server's address is a host and a port; `auth` names the user";
            return Err(ChannelError::Url(why.to_owned()));
        }
        let security = match target.security {
            Security::Tls => Tls::First(dialer.tls(&[])),
            Security::Own => Tls::Start(dialer.tls(&[])),
            Security::Plain => Tls::Never,
        };
        let login = match &options.credential {
            Credential::None => None,
            Credential::Password { .. } if options.is_plain => {
                return Err(ChannelError::Credential("a password is not sent without TLS".to_owned()));
            }
            Credential::Password { user: Some(user), password } => {
                Some(Login { user: user.clone(), password: Zeroizing::new(password.clone()) })
            }
            _ => return Err(ChannelError::Credential("a mail server takes a user and a password".to_owned())),
        };
        Ok(Mailer { target, dialer: dialer.clone(), security, login })
    }

    /// Hands the mail over; when this returns, the server has it.
    ///
    /// # Errors
    /// It does not have it, as far as is known.
    pub async fn send(&self, mail: &Mail, deadline: Instant) -> Result<(), MailError> {
        let progress = Progress::begin(deadline);
        match timeout_at(deadline, self.deliver(mail, &progress)).await {
            Ok(sent) => sent,
            Err(_) => Err(MailError::Failed(progress.timed_out())),
        }
    }

    async fn deliver(&self, mail: &Mail, progress: &Progress) -> Result<(), MailError> {
        let first = if let Tls::First(tls) = &self.security { Some(tls) } else { None };
        let stream = self.dialer.dial(&self.target, first, progress).await.map_err(MailError::Failed)?;
        let mut talk = Talk { stream, buffer: Vec::new() };
        progress.enter(Stage::Await);
        talk.expect("the connection", 220).await?;
        let mut abilities = talk.greet().await?;
        if let Tls::Start(tls) = &self.security {
            if !has(&abilities, "STARTTLS") {
                return Err(MailError::Failed(Failure {
                    stage: Stage::Tls,
                    reason: "the mail server offers no STARTTLS; use smtps://, or `tls: none` for a relay of your own"
                        .to_owned(),
                }));
            }
            talk.say("STARTTLS", "STARTTLS", 220).await?;
            talk = self.start_tls(talk, tls, progress).await?;
            progress.enter(Stage::Await);
            abilities = talk.greet().await?;
        }
        if let Some(login) = &self.login {
            talk.log_in(login, &abilities).await?;
        }
        progress.enter(Stage::Send);
        talk.say("MAIL FROM", &format!("MAIL FROM:<{}>", mail.from), 250).await?;
        for recipient in &mail.to {
            talk.say("RCPT TO", &format!("RCPT TO:<{recipient}>"), 250).await?;
        }
        talk.say("DATA", "DATA", 354).await?;
        talk.write(&stuffed(&mail.bytes())).await?;
        progress.enter(Stage::Await);
        talk.expect("the mail", 250).await?;
        // It has the mail: how it says good-bye changes nothing.
        let _ = talk.write(b"QUIT\r\n").await;
        let _ = talk.stream.shutdown().await;
        Ok(())
    }

    async fn start_tls(&self, talk: Talk, tls: &TlsConnector, progress: &Progress) -> Result<Talk, MailError> {
        let refuse = |reason: &str| MailError::Failed(Failure { stage: Stage::Tls, reason: reason.to_owned() });
        if !talk.buffer.is_empty() {
            return Err(refuse("the mail server spoke before TLS began: somebody may be in between"));
        }
        let Stream::Plain(socket) = talk.stream else { return Err(refuse("TLS was begun twice")) };
        let stream = protect(socket, &self.target, tls, progress).await.map_err(MailError::Failed)?;
        Ok(Talk { stream, buffer: Vec::new() })
    }
}

/// A conversation under way.
struct Talk {
    stream: Stream,
    /// Read and not yet used.
    buffer: Vec<u8>,
}

/// A reply: its code and its lines.
struct Reply {
    code: u16,
    lines: Vec<String>,
}

impl Talk {
    /// `EHLO`, with this end's address, as a hub need not have a name (RFC 5321, 4.1.3).
    async fn greet(&mut self) -> Result<Vec<String>, MailError> {
        let address = match &self.stream {
            Stream::Plain(socket) => socket.local_addr(),
            Stream::Tls(socket) => socket.get_ref().0.local_addr(),
        };
        let name = match address.map(|address| address.ip()) {
            Ok(std::net::IpAddr::V6(address)) => format!("[IPv6:{address}]"),
            Ok(address) => format!("[{address}]"),
            Err(_) => "[127.0.0.1]".to_owned(),
        };
        Ok(self.say("EHLO", &format!("EHLO {name}"), 250).await?.lines)
    }

    async fn log_in(&mut self, login: &Login, abilities: &[String]) -> Result<(), MailError> {
        let offered = abilities.iter().find(|line| line.to_ascii_uppercase().starts_with("AUTH"));
        let offers = |name: &str| {
            offered.is_some_and(|line| line.split([' ', '=']).skip(1).any(|word| word.eq_ignore_ascii_case(name)))
        };
        if offers("PLAIN") {
            let text = Zeroizing::new(format!("\0{}\0{}", login.user, login.password.as_str()));
            let line = Zeroizing::new(format!("AUTH PLAIN {}", STANDARD.encode(text.as_bytes())));
            self.say("AUTH", &line, 235).await?;
        } else if offers("LOGIN") {
            self.say("AUTH", "AUTH LOGIN", 334).await?;
            self.say("AUTH", &STANDARD.encode(&login.user), 334).await?;
            let password = Zeroizing::new(STANDARD.encode(login.password.as_bytes()));
            self.say("AUTH", &password, 235).await?;
        } else {
            let reason = "the mail server offers neither AUTH PLAIN nor AUTH LOGIN".to_owned();
            return Err(MailError::Failed(Failure { stage: Stage::Auth, reason }));
        }
        Ok(())
    }

    async fn say(&mut self, step: &'static str, line: &str, code: u16) -> Result<Reply, MailError> {
        let line = Zeroizing::new(format!("{line}\r\n"));
        self.write(line.as_bytes()).await?;
        self.expect(step, code).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), MailError> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error| broken(Stage::Send, &error))
    }

    /// The reply to a step, which must be of this code's class: 250 and 251 mean the same here.
    async fn expect(&mut self, step: &'static str, code: u16) -> Result<Reply, MailError> {
        let reply = self.reply().await?;
        if reply.code / 100 == code / 100 {
            return Ok(reply);
        }
        let text: String = reply.lines.join(" ").chars().take(REASON_CHARS_MAX).collect();
        Err(MailError::Refused { code: reply.code, step, text })
    }

    async fn reply(&mut self) -> Result<Reply, MailError> {
        let malformed = || {
            MailError::Failed(Failure { stage: Stage::Read, reason: "the mail server's reply is no SMTP".to_owned() })
        };
        let mut lines = Vec::new();
        while lines.len() < SMTP_LINES_MAX {
            let line = self.line().await?;
            let code = line.get(..3).and_then(|code| code.parse::<u16>().ok()).ok_or_else(malformed)?;
            let is_last = line.as_bytes().get(3) != Some(&b'-');
            lines.push(line.get(4..).unwrap_or_default().to_owned());
            if is_last {
                return Ok(Reply { code, lines });
            }
        }
        Err(malformed())
    }

    async fn line(&mut self) -> Result<String, MailError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let text = String::from_utf8_lossy(&line);
                return Ok(text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect());
            }
            if self.buffer.len() > SMTP_LINE_BYTES_MAX {
                let reason = "a line of the mail server's reply is over 2 KiB".to_owned();
                return Err(MailError::Failed(Failure { stage: Stage::Read, reason }));
            }
            let read = self.stream.read_buf(&mut self.buffer).await;
            match read {
                Ok(0) => return Err(broken(Stage::Read, &std::io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) => return Err(broken(Stage::Read, &error)),
            }
        }
    }
}

fn broken(stage: Stage, error: &std::io::Error) -> MailError {
    MailError::Failed(Failure { stage, reason: format!("{} in the middle of the mail's hand-over", io_words(error)) })
}

fn has(abilities: &[String], name: &str) -> bool {
    abilities.iter().any(|line| line.trim().eq_ignore_ascii_case(name))
}

/// Lines that begin with a dot get another one; the end is a dot by itself.
fn stuffed(bytes: &[u8]) -> Vec<u8> {
    let mut stuffed = Vec::with_capacity(bytes.len() + 8);
    let mut is_line_start = true;
    for byte in bytes {
        if is_line_start && *byte == b'.' {
            stuffed.push(b'.');
        }
        stuffed.push(*byte);
        is_line_start = *byte == b'\n';
    }
    if !is_line_start {
        stuffed.extend_from_slice(b"\r\n");
    }
    stuffed.extend_from_slice(b".\r\n");
    stuffed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_at_a_lines_start_does_not_end_the_mail() {
        assert_eq!(stuffed(b"a\r\n.\r\n..b"), b"a\r\n..\r\n...b\r\n.\r\n");
        assert_eq!(stuffed(b"a\r\n"), b"a\r\n.\r\n");
    }
}
