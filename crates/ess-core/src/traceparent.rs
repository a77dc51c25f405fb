//! W3C Trace Context: what a caller's `traceparent` says. It is passed on as it came; this is for the hub's own spans.

/// A caller's place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The caller's span.
    pub parent_id: [u8; 8],
    /// The caller records this trace, and so others should.
    pub is_sampled: bool,
}

impl Traceparent {
    /// Reads the header's value; `None` when it is not valid, as then there is no trace to go on with (section 3.2.2).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let [version] = hex(bytes.get(..2)?)?;
        // Later versions may say more behind the flags; 255 is not one.
        let is_whole = match version {
            0 => bytes.len() == 55,
            255 => false,
            _ => bytes.len() == 55 || bytes.get(55) == Some(&b'-'),
        };
        let has_dashes = [2, 35, 52].iter().all(|place| bytes.get(*place) == Some(&b'-'));
        if !is_whole || !has_dashes {
            return None;
        }
        let (trace_id, parent_id) = (hex(&bytes[3..35])?, hex(&bytes[36..52])?);
        let [flags] = hex(bytes.get(53..55)?)?;
        let is_somewhere = trace_id != [0; 16] && parent_id != [0; 8];
        is_somewhere.then_some(Self { trace_id, parent_id, is_sampled: flags & 1 == 1 })
    }
}

/// Lower-case digits only, as the standard wants it.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_example_of_the_standard_is_read() {
        let read = Traceparent::parse(GOOD).unwrap();
        assert_eq!((read.trace_id[0], read.parent_id[7], read.is_sampled), (0x0a, 0x31, true));
        assert!(!Traceparent::parse(&GOOD.replace("-01", "-00")).unwrap().is_sampled);
        assert!(Traceparent::parse(&format!("cc{}-more", &GOOD[2..])).unwrap().is_sampled);
    }

    #[test]
    fn what_is_not_valid_is_no_trace() {
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-more"),
            &format!("ff{}", &GOOD[2..]),
            &GOOD.replace('a', "A"),
            &GOOD.replace("-b7", "_b7"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-é",
        ] {
            assert_eq!(Traceparent::parse(bad), None, "{bad}");
        }
    }
}
