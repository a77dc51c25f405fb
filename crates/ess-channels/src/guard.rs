//! Which addresses the hub may dial: public ones, and what the operator allowed by `--allow-net`.
//!
//! It judges numbers, never names: a name is resolved first and each of its addresses is judged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ess_core::partner::AllowNet;
use ess_core::receipt::{Failure, Stage};

/// Whether others on the way can read along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protection {
    /// TLS or the protocol's own: any public address.
    Full,
    /// None: only what the operator allowed by name. The schemes are the one that was written and the one to write.
    Plain(&'static str, &'static str),
}

/// Says whether `address` may be dialled.
///
/// # Errors
///
/// A failure of stage `Guard` whose reason names the address and the option that allows it.
pub(crate) fn check(address: IpAddr, protection: Protection, allow: &AllowNet) -> Result<(), Failure> {
    if is_allowed(address, allow) {
        return Ok(());
    }
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    let hint = format!("--allow-net {address}/{prefix}");
    let reason = match (kind(address), protection) {
        (Some(kind), _) => format!("{address} is {kind}, which the hub does not dial; allow it with {hint}"),
        (None, Protection::Plain(scheme, instead)) => {
            format!("plain {scheme} to {address} is refused; use {instead}, or allow it with {hint}")
        }
        (None, Protection::Full) => return Ok(()),
    };
    Err(Failure { stage: Stage::Guard, reason })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allow(nets: &[&str]) -> AllowNet {
        AllowNet(nets.iter().map(|net| net.parse().unwrap()).collect())
    }

    fn is_dialled(address: &str, nets: &[&str]) -> bool {
        check(address.parse().unwrap(), Protection::Full, &allow(nets)).is_ok()
    }

    #[test]
    fn special_addresses_are_refused_and_named() {
        for (address, kind) in [
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("127.255.255.255", "loopback"),
            ("10.0.0.1", "private"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.168.1.1", "private"),
            ("100.64.0.1", "carrier-grade"),
            ("100.127.255.255", "carrier-grade"),
            ("100.100.100.200", "metadata"),
            ("169.254.169.254", "metadata"),
            ("169.254.1.1", "link-local"),
            ("192.0.0.192", "reserved"),
            ("192.0.2.1", "documentation"),
            ("198.51.100.1", "documentation"),
            ("203.0.113.1", "documentation"),
            ("198.18.0.1", "benchmarking"),
            ("192.88.99.1", "6to4"),
            ("224.0.0.1", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "reserved"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::2", "IPv4-compatible"),
            ("::8.8.8.8", "IPv4-compatible"),
            ("::ffff:8.8.8.8", "mapped"),
            ("::ffff:10.0.0.1", "mapped"),
            ("::ffff:0:8.8.8.8", "translated"),
            ("64:ff9b::8.8.8.8", "NAT64"),
            ("64:ff9b:1::10.0.0.1", "NAT64"),
            ("64:ff9b:1:fffe::1", "NAT64"),
            ("100::1", "reserved"),
            ("2001::1", "Teredo"),
            ("2001:2::1", "reserved"),
            ("2001:db8::1", "documentation"),
            ("3fff::1", "documentation"),
            ("2002:808:808::1", "6to4"),
            ("fc00::1", "unique-local"),
            ("fd12:3456::1", "unique-local"),
            ("fd00:ec2::254", "metadata"),
            ("fe80::1", "link-local"),
            ("febf::1", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
            ("5f00::1", "segment-routing"),
            ("4000::1", "reserved"),
        ] {
            let failure = check(address.parse().unwrap(), Protection::Full, &allow(&[])).unwrap_err();
            assert_eq!(failure.stage, Stage::Guard);
            assert!(failure.reason.contains(kind), "{address}: {}", failure.reason);
            assert!(failure.reason.contains("--allow-net"), "{address}: {}", failure.reason);
        }
    }

    #[test]
    fn public_addresses_are_dialled() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.167.1.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "2a00:1450::1",
        ] {
            assert!(is_dialled(address, &[]), "{address}");
        }
    }

    #[test]
    fn an_inner_address_is_judged_as_well() {
        // The outer form alone is not enough to reach a private address through it.
        assert!(!is_dialled("64:ff9b::10.0.0.1", &["64:ff9b::/96"]));
        assert!(!is_dialled("64:ff9b::10.0.0.1", &["10.0.0.0/8"]));
        assert!(is_dialled("64:ff9b::10.0.0.1", &["64:ff9b::/96", "10.0.0.0/8"]));
        assert!(is_dialled("64:ff9b::8.8.8.8", &["64:ff9b::/96"]));
        assert!(!is_dialled("64:ff9b:1::10.0.0.1", &["64:ff9b:1::/48"]));
        assert!(!is_dialled("2002:a00:1::1", &["2002::/16"]));
        assert!(is_dialled("2002:808:808::1", &["2002::/16"]));
        // Teredo: 10.0.0.1 inverted.
        assert!(!is_dialled("2001:0:1:2:3:4:f5ff:fffe", &["2001::/32"]));
        // A mapped address is the IPv4 address itself, so allowing that one is enough.
        assert!(is_dialled("::ffff:10.0.0.1", &["10.0.0.0/8"]));
        assert!(!is_dialled("::ffff:10.0.0.1", &["::ffff:0:0/96"]));
        assert!(is_dialled("::ffff:8.8.8.8", &["::ffff:0:0/96"]));
    }

    #[test]
    fn plain_http_needs_to_be_allowed_everywhere() {
        let public = "8.8.8.8".parse().unwrap();
        assert!(check(public, Protection::Plain("http", "https"), &allow(&[])).is_err());
        assert!(check(public, Protection::Plain("http", "https"), &allow(&["8.8.8.8/32"])).is_ok());
    }

    proptest! {
        #[test]
        fn what_wraps_a_refused_address_is_refused(bits: u32) {
            let inner = Ipv4Addr::from_bits(bits);
            let [a, b, c, d] = inner.octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            for outer in [
                inner.to_ipv6_mapped(),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2001, 0, 1, 2, 3, 4, !high, !low),
            ] {
                prop_assert!(check(outer.into(), Protection::Full, &allow(&[])).is_err());
                let judged_by_outer = check(outer.into(), Protection::Full, &allow(&["::/0"])).is_ok();
                prop_assert_eq!(judged_by_outer, kind_v4(inner).is_none());
            }
        }

        #[test]
        fn what_the_standard_library_calls_special_is_refused(bits: u32) {
            let address = Ipv4Addr::from_bits(bits);
            let is_special = address.is_private() || address.is_loopback() || address.is_link_local()
                || address.is_broadcast() || address.is_documentation() || address.is_unspecified()
                || address.is_multicast();
            prop_assert!(!is_special || check(address.into(), Protection::Full, &allow(&[])).is_err());
        }

        #[test]
        fn outside_global_unicast_nothing_is_dialled(bits: u128) {
            let address = Ipv6Addr::from_bits(bits);
            let is_global_unicast = address.segments()[0] & 0xe000 == 0x2000;
            prop_assert!(is_global_unicast || check(address.into(), Protection::Full, &allow(&[])).is_err());
        }
    }
}
