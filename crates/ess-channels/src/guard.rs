//! Which addresses the hub may dial: public ones, and what the operator allowed by `--allow-net`.
//!
//! It judges numbers, never names: a name is resolved first and each of its addresses is judged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ess_core::partner::AllowNet;
use ess_core::receipt::{Failure, Stage};

/// Whether the connection is protected by TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Security {
    /// `https://`: any public address.
    Tls,
    /// `http://`: only what the operator allowed by name.
    Plain,
}

/// Says whether `address` may be dialled.
///
/// # Errors
///
/// A failure of stage `Guard` whose reason names the address and the option that allows it.
pub(crate) fn check(address: IpAddr, security: Security, allow: &AllowNet) -> Result<(), Failure> {
    if is_allowed(address, allow) {
        return Ok(());
    }
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    let hint = format!("--allow-net {address}/{prefix}");
    let reason = match (kind(address), security) {
        (Some(kind), _) => format!("{address} is {kind}, which the hub does not dial; allow it with {hint}"),
        (None, Security::Plain) => {
            format!("plain http to {address} is refused; use https, or allow it with {hint}")
        }
        (None, Security::Tls) => return Ok(()),
    };
    Err(Failure {
        stage: Stage::Guard,
        reason,
    })
}

/// Whether the operator allowed the address. One that carries an IPv4 address inside is judged by that one as well.
fn is_allowed(address: IpAddr, allow: &AllowNet) -> bool {
    let IpAddr::V6(v6) = address else {
        return allow.allows(address);
    };
    if let Some(inner) = v6.to_ipv4_mapped() {
        let inner = IpAddr::V4(inner);
        return allow.allows(inner) || (allow.allows(address) && kind(inner).is_none());
    }
    let inner_is_harmless =
        embedded(v6).is_none_or(|inner| kind(IpAddr::V4(inner)).is_none() || allow.allows(IpAddr::V4(inner)));
    allow.allows(address) && inner_is_harmless
}

/// The IPv4 address that a translation or tunnel would finally reach.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let v4 = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match s {
        // IPv4-compatible (RFC 4291 section 2.5.5.1) and IPv4-translated (RFC 2765).
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(v4(high, low)),
        [0, 0, 0, 0, 0xffff, 0, high, low] => Some(v4(high, low)),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => Some(v4(high, low)),
        // NAT64, well-known prefix (RFC 6052).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        // NAT64, local-use prefix (RFC 8215), a /96 within it; the other lengths are refused as a kind.
        [0x64, 0xff9b, 1, _, _, _, high, low] => Some(v4(high, low)),
        // Teredo (RFC 4380): the client's address stands inverted at the end.
        [0x2001, 0, _, _, _, _, high, low] => Some(v4(!high, !low)),
        _ => None,
    }
}

/// What kind of special address it is; `None` for a public one.
fn kind(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => kind_v4(v4),
        IpAddr::V6(v6) => kind_v6(v6),
    }
}

/// IANA IPv4 special-purpose address registry.
fn kind_v4(address: Ipv4Addr) -> Option<&'static str> {
    Some(match address.octets() {
        [0, ..] => "an unspecified address",
        [127, ..] => "a loopback address",
        [10, ..] | [192, 168, ..] | [172, 16..=31, ..] => "a private address",
        [169, 254, 169, 254] | [169, 254, 170, 2] | [100, 100, 100, 200] | [168, 63, 129, 16] => {
            "a cloud metadata address"
        }
        [169, 254, ..] => "a link-local address",
        [100, 64..=127, ..] => "a carrier-grade NAT address",
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => "a documentation address",
        [198, 18..=19, ..] => "a benchmarking address",
        [192, 88, 99, _] => "a 6to4 relay address",
        [192, 0, 0, _] => "a reserved address",
        [224..=239, ..] => "a multicast address",
        [240..=255, ..] => "a reserved address",
        _ => return None,
    })
}

/// IANA IPv6 special-purpose address registry; what is outside global unicast (2000::/3) is reserved.
fn kind_v6(address: Ipv6Addr) -> Option<&'static str> {
    let s = address.segments();
    Some(match s {
        [0, 0, 0, 0, 0, 0, 0, 0] => "the unspecified address",
        [0, 0, 0, 0, 0, 0, 0, 1] => "a loopback address",
        [0, 0, 0, 0, 0, 0xffff, ..] => "an IPv4-mapped address",
        [0, 0, 0, 0, 0, 0, ..] => "an IPv4-compatible address",
        [0, 0, 0, 0, 0xffff, 0, ..] => "an IPv4-translated address",
        [0x64, 0xff9b, ..] => "a NAT64 address",
        [0x2002, ..] => "a 6to4 address",
        [0x2001, 0, ..] => "a Teredo address",
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0x0fff, ..] => "a documentation address",
        [0x2001, 0x0001..=0x01ff, ..] => "a reserved address",
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] => "a cloud metadata address",
        [0xfc00..=0xfdff, ..] => "a unique-local address",
        [0xfe80..=0xfebf, ..] => "a link-local address",
        [0xfec0..=0xfeff, ..] => "a site-local address",
        [0xff00..=0xffff, ..] => "a multicast address",
        [0x5f00, ..] => "a segment-routing address",
        [0x2000..=0x3fff, ..] => return None,
        _ => "a reserved address",
    })
}
