//! The way out by a proxy: HTTP CONNECT and SOCKS5, for every connection but those that are spared.
//!
//! The hub resolves and checks a partner's address itself and asks the proxy for the address that was checked, never for
//! a name: the guard's word holds behind a proxy too. The proxy's own address is the operator's, so it is not checked.
//!
//! Source: RFC 9110 section 9.3.6 (CONNECT), RFC 1928 and RFC 1929 (SOCKS5 and its login).

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ess_core::receipt::words;
use ipnet::IpNet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use crate::channel::ChannelError;
use crate::limits::PROXY_HEAD_BYTES_MAX;
use crate::target::{Scheme, Security, Target};
use crate::wire::io_words;

const PROXY: [Scheme; 2] = [
    Scheme { word: "http", security: Security::Plain, port: 3128 },
    Scheme { word: "socks5", security: Security::Plain, port: 1080 },
];

/// A proxy as the operator names it.
#[derive(Clone)]
pub struct ProxyOptions {
    /// `http://host:port` or `socks5://host:port`.
    pub url: String,
    /// `user:password`, if it wants one.
    pub login: Option<String>,
    /// Who is dialled without it: host names, `.domains` with all beneath, addresses and ranges.
    pub except: Vec<String>,
}

impl std::fmt::Debug for ProxyOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyOptions").field("url", &self.url).field("except", &self.except).finish_non_exhaustive()
    }
}

/// A proxy, checked.
pub(crate) struct Proxy {
    pub(crate) target: Target,
    kind: Kind,
    login: Option<(String, Zeroizing<String>)>,
    names: Vec<String>,
    nets: Vec<IpNet>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Connect,
    Socks,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("host", &self.target.host).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Proxy {
    pub(crate) fn open(options: &ProxyOptions) -> Result<Proxy, ChannelError> {
        let refuse = |why: String| ChannelError::Option(format!("the proxy: {why}"));
        let target = Target::parse(&options.url, &PROXY).map_err(|error| match error {
            ChannelError::Url(why) => refuse(why),
            other => other,
        })?;
        if !matches!(target.path.as_str(), "" | "/") {
            return Err(refuse("its address is a host and a port, without a path".to_owned()));
        }
        let login = match &options.login {
            None => None,
            Some(login) => {
                let parts = login.split_once(':').filter(|(user, _)| !user.is_empty());
                let (user, password) = parts.ok_or_else(|| refuse("its login is user:password".to_owned()))?;
                if login.chars().any(char::is_control) || user.len() > 255 || password.len() > 255 {
                    return Err(refuse("a user and a password have 255 printable bytes at most".to_owned()));
                }
                Some((user.to_owned(), Zeroizing::new(password.to_owned())))
            }
        };
        let (mut names, mut nets) = (Vec::new(), Vec::new());
        for spared in &options.except {
            match (spared.parse::<IpNet>(), spared.parse::<IpAddr>()) {
                (Ok(net), _) => nets.push(net),
                (_, Ok(address)) => nets.push(IpNet::from(address)),
                _ if spared.contains(['/', ':', ' ', '*']) || spared.is_empty() => {
                    let why = format!("{spared:?} in its exceptions is no host, `.domain`, address or range");
                    return Err(refuse(why));
                }
                _ => names.push(spared.to_ascii_lowercase()),
            }
        }
        let kind = if target.scheme() == "socks5" { Kind::Socks } else { Kind::Connect };
        Ok(Proxy { target, kind, login, names, nets })
    }

    /// Whether this host, at these addresses, is dialled without the proxy.
    pub(crate) fn spares(&self, host: &str, addresses: &[SocketAddr]) -> bool {
        let host = host.to_ascii_lowercase();
        let is_named = self.names.iter().any(|name| match name.strip_prefix('.') {
            Some(domain) => host == domain || host.ends_with(name.as_str()),
            None => host == *name,
        });
        is_named || addresses.iter().all(|address| self.nets.iter().any(|net| net.contains(&address.ip())))
    }

    /// Asks on a connection to the proxy for one to this address; the reason of a failure says whose it is.
    pub(crate) async fn ask(&self, socket: &mut TcpStream, address: SocketAddr) -> Result<(), String> {
        let asked = match self.kind {
            Kind::Connect => self.connect(socket, address).await,
            Kind::Socks => self.socks(socket, address).await,
        };
        asked.map_err(|trouble| match trouble {
            Trouble::Io(error) => format!("the proxy: {} before its answer", io_words(&error)),
            Trouble::Said(reason) => reason,
        })
    }

    async fn connect(&self, socket: &mut TcpStream, address: SocketAddr) -> Result<(), Trouble> {
        let mut request = Zeroizing::new(format!("CONNECT {address} HTTP/1.1\r\nhost: {address}\r\n"));
        if let Some((user, password)) = &self.login {
            let login = Zeroizing::new(format!("{user}:{}", password.as_str()));
            request.push_str(&format!("proxy-authorization: Basic {}\r\n", STANDARD.encode(login.as_bytes())));
        }
        request.push_str("\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut head = Vec::with_capacity(256);
        // Byte for byte: what follows the head is the partner's, which may speak first.
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= PROXY_HEAD_BYTES_MAX {
                return said("the proxy's answer is over 8 KiB");
            }
            head.push(socket.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head);
        let mut first = head.lines().next().unwrap_or_default().splitn(3, ' ');
        let (version, status, text) =
            (first.next().unwrap_or_default(), first.next().unwrap_or_default(), first.next().unwrap_or_default());
        let status: u16 = status.parse().unwrap_or(0);
        if !version.starts_with("HTTP/1.") || !(100..600).contains(&status) {
            return said("the proxy does not speak HTTP");
        }
        match status {
            200..=299 => Ok(()),
            // 401 is a partner's word, but tinyproxy says it of itself.
            401 | 407 => said(&format!("the proxy wants another login (status {status}): see proxy_login")),
            403 => said(&format!("the proxy does not let the hub connect to {address} (status 403)")),
            _ => said(&format!("the proxy did not connect to {address} (status {status}: {})", words(text))),
        }
    }

    async fn socks(&self, socket: &mut TcpStream, address: SocketAddr) -> Result<(), Trouble> {
        let way = if self.login.is_some() { 2 } else { 0 };
        socket.write_all(&[5, 1, way]).await?;
        match [socket.read_u8().await?, socket.read_u8().await?] {
            [5, chosen] if chosen == way => {}
            [5, _] if self.login.is_some() => return said("the SOCKS proxy takes no logins by user and password"),
            [5, _] => return said("the SOCKS proxy wants a login: see proxy_login"),
            _ => return said("the proxy does not speak SOCKS5"),
        }
        if let Some((user, password)) = &self.login {
            let mut login = Zeroizing::new(vec![1]);
            for part in [user.as_str(), password.as_str()] {
                login.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
                login.extend_from_slice(part.as_bytes());
            }
            socket.write_all(&login).await?;
            let [_, status] = [socket.read_u8().await?, socket.read_u8().await?];
            if status != 0 {
                return said("the SOCKS proxy does not take the login: see proxy_login");
            }
        }
        let mut request = vec![5, 1, 0];
        match address.ip() {
            IpAddr::V4(ip) => request.extend([&[1], ip.octets().as_slice()].concat()),
            IpAddr::V6(ip) => request.extend([&[4], ip.octets().as_slice()].concat()),
        }
        request.extend_from_slice(&address.port().to_be_bytes());
        socket.write_all(&request).await?;
        let [version, status, _, kind] =
            [socket.read_u8().await?, socket.read_u8().await?, socket.read_u8().await?, socket.read_u8().await?];
        if version != 5 {
            return said("the proxy does not speak SOCKS5");
        }
        // What it calls itself there, which says nothing.
        let length = match kind {
            1 => 4,
            4 => 16,
            3 => usize::from(socket.read_u8().await?),
            _ => return said("the proxy does not speak SOCKS5"),
        };
        socket.read_exact(&mut vec![0; length + 2]).await?;
        match status {
            0 => Ok(()),
            2 => said(&format!("the SOCKS proxy does not let the hub connect to {address}")),
            3 => said(&format!("network unreachable from the SOCKS proxy to {address}")),
            4 => said(&format!("host unreachable from the SOCKS proxy to {address}")),
            5 => said(&format!("connection refused by {address}, says the SOCKS proxy")),
            6 => said(&format!("connection timed out from the SOCKS proxy to {address}")),
            _ => said(&format!("the SOCKS proxy did not connect to {address} (reply {status})")),
        }
    }
}

enum Trouble {
    Io(std::io::Error),
    Said(String),
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Trouble {
        Trouble::Io(error)
    }
}

fn said(reason: &str) -> Result<(), Trouble> {
    Err(Trouble::Said(reason.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(url: &str, except: &[&str]) -> Result<Proxy, ChannelError> {
        let except = except.iter().map(|item| (*item).to_owned()).collect();
        Proxy::open(&ProxyOptions { url: url.to_owned(), login: None, except })
    }

    #[test]
    fn hosts_domains_and_ranges_are_spared() {
        let proxy = open("http://proxy:3128", &["Hub.example", ".court.example", "10.0.0.0/8", "::1"]).unwrap();
        let at = |address: &str| vec![SocketAddr::new(address.parse().unwrap(), 443)];
        for host in ["hub.example", "court.example", "API.court.example"] {
            assert!(proxy.spares(host, &at("192.0.2.1")), "{host}");
        }
        for host in ["x.hub.example", "notcourt.example"] {
            assert!(!proxy.spares(host, &at("192.0.2.1")), "{host}");
        }
        assert!(proxy.spares("x", &at("10.1.2.3")) && proxy.spares("x", &at("::1")));
        assert!(!proxy.spares("x", &[at("10.1.2.3"), at("192.0.2.1")].concat()));
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_refused() {
        for url in ["https://proxy", "proxy:3128", "http://u:p@proxy", "http://proxy/path", "socks4://x"] {
            assert!(matches!(open(url, &[]), Err(ChannelError::Option(_))), "{url}");
        }
        for except in ["*.court.example", "10.0.0.0/99", ""] {
            assert!(open("http://proxy", &[except]).is_err(), "{except}");
        }
        for login in ["user", ":password", "user:pass\r\nword"] {
            let options =
                ProxyOptions { url: "http://p".to_owned(), login: Some(login.to_owned()), except: Vec::new() };
            assert!(Proxy::open(&options).is_err(), "{login:?}");
            assert!(!format!("{options:?}").contains("password"), "{options:?}");
        }
        assert_eq!(open("socks5://proxy", &[]).unwrap().target.port, 1080);
    }
}
