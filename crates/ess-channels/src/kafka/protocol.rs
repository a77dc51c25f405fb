//! The requests of Kafka's protocol that producing takes, and their answers, each in one fixed version.
//!
//! Source: Kafka protocol guide (message definitions) at the versions below, which Kafka 1.0 to 4 all have. Nothing that a
//! broker sends is kept beyond its ceiling, and no count of it is believed before its elements are there.

use bytes::{Buf as _, BytesMut};

use crate::limits::ANSWER_BYTES_MAX;

/// What a request asks for, with the version in which it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Api {
    pub(super) key: i16,
    pub(super) version: i16,
}

pub(super) const API_VERSIONS: Api = Api { key: 18, version: 0 };
pub(super) const METADATA: Api = Api { key: 3, version: 4 };
pub(super) const SASL_HANDSHAKE: Api = Api { key: 17, version: 1 };
pub(super) const SASL_AUTHENTICATE: Api = Api { key: 36, version: 0 };
pub(super) const INIT_PRODUCER_ID: Api = Api { key: 22, version: 0 };
/// The key of Produce, whose version is the broker's highest up to 8, in which it says more about what it refuses.
pub(super) const PRODUCE: i16 = 0;
const PRODUCE_VERSIONS: std::ops::RangeInclusive<i16> = 3..=8;

/// All replicas that are in step have the message before it is confirmed.
const ACKS_ALL: i16 = -1;

/// Why what a broker sent is not of the protocol.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub &'static str);

const CUT_SHORT: Malformed = Malformed("the broker sent an answer cut short");

/// A request with its length and head.
pub(super) fn request(api: Api, correlation: i32, body: &[u8]) -> Vec<u8> {
    const CLIENT: &str = "hms-ess";
    let head_bytes = 2 + 2 + 4 + 2 + CLIENT.len();
    let mut out = Vec::with_capacity(4 + head_bytes + body.len());
    out.extend_from_slice(&length(head_bytes + body.len()));
    out.extend_from_slice(&api.key.to_be_bytes());
    out.extend_from_slice(&api.version.to_be_bytes());
    out.extend_from_slice(&correlation.to_be_bytes());
    put_text(&mut out, CLIENT);
    out.extend_from_slice(body);
    out
}

/// Asks for one topic, which is not to be made by that.
pub(super) fn metadata(topic: &str) -> Vec<u8> {
    let mut out = 1_i32.to_be_bytes().to_vec();
    put_text(&mut out, topic);
    out.push(0);
    out
}

/// Names the way to log in.
pub(super) fn sasl_handshake(mechanism: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_text(&mut out, mechanism);
    out
}

/// A step of the log-in.
pub(super) fn sasl_authenticate(words: &[u8]) -> Vec<u8> {
    [&length(words.len()), words].concat()
}

/// Asks for a producer's number, without transactions.
pub(super) fn init_producer_id() -> Vec<u8> {
    [(-1_i16).to_be_bytes().as_slice(), &60_000_i32.to_be_bytes()].concat()
}

/// Hands one batch to a partition's leader: the one that `put_batch` appends, of about so many bytes.
pub(super) fn produce(
    topic: &str,
    partition: i32,
    timeout_ms: i32,
    batch_bytes: usize,
    put_batch: impl FnOnce(&mut Vec<u8>),
) -> Vec<u8> {
    let mut out = Vec::with_capacity(batch_bytes + topic.len() + 32);
    out.extend_from_slice(&(-1_i16).to_be_bytes());
    out.extend_from_slice(&ACKS_ALL.to_be_bytes());
    out.extend_from_slice(&timeout_ms.to_be_bytes());
    out.extend_from_slice(&1_i32.to_be_bytes());
    put_text(&mut out, topic);
    out.extend_from_slice(&1_i32.to_be_bytes());
    out.extend_from_slice(&partition.to_be_bytes());
    let before = out.len();
    out.extend_from_slice(&[0; 4]);
    put_batch(&mut out);
    let bytes = length(out.len() - before - 4);
    out[before..before + 4].copy_from_slice(&bytes);
    out
}

fn length(bytes: usize) -> [u8; 4] {
    i32::try_from(bytes).unwrap_or(i32::MAX).to_be_bytes()
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&i16::try_from(text.len()).unwrap_or(i16::MAX).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Takes the next whole answer off `bytes`, without its length; `None` while it is not whole.
pub(super) fn next(bytes: &mut BytesMut) -> Result<Option<BytesMut>, Malformed> {
    let Some(&head) = bytes.first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(i32::from_be_bytes(head)).unwrap_or(usize::MAX);
    if !(4..=ANSWER_BYTES_MAX).contains(&length) {
        return Err(Malformed("the broker does not speak Kafka's protocol there; it may speak it by TLS"));
    }
    if bytes.len() < 4 + length {
        return Ok(None);
    }
    bytes.advance(4);
    Ok(Some(bytes.split_to(length)))
}

/// An answer that is read from its beginning.
pub(super) struct Answer<'a>(&'a [u8]);

/// What a broker can do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Abilities {
    /// The version to produce in; none fits when absent.
    pub(super) produce: Option<i16>,
    pub(super) has_metadata: bool,
    pub(super) has_sasl: bool,
    pub(super) has_producer_ids: bool,
}

/// Where a topic's partitions are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) brokers: Vec<Node>,
    pub(super) error: i16,
    /// The leader of each partition, by the partition's number; negative while there is none.
    pub(super) leaders: Vec<i32>,
}

/// A broker as the cluster describes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) id: i32,
    pub(super) host: String,
    pub(super) port: u16,
}

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Produced {
    pub(super) error: i16,
    pub(super) message: Option<String>,
}

impl<'a> Answer<'a> {
    /// Checks whose answer it is.
    pub(super) fn to(correlation: i32, bytes: &'a [u8]) -> Result<Answer<'a>, Malformed> {
        let mut answer = Answer(bytes);
        match answer.i32()? {
            id if id == correlation => Ok(answer),
            _ => Err(Malformed("the broker answered another request than the last one")),
        }
    }

    pub(super) fn abilities(mut self) -> Result<Abilities, Malformed> {
        let mut able = Abilities { produce: None, has_metadata: false, has_sasl: false, has_producer_ids: false };
        if self.i16()? != 0 {
            return Ok(able);
        }
        for _ in 0..self.count()? {
            let (key, least, most) = (self.i16()?, self.i16()?, self.i16()?);
            let has = |api: Api| api.key == key && (least..=most).contains(&api.version);
            able.has_metadata |= has(METADATA);
            able.has_sasl |= has(SASL_AUTHENTICATE);
            able.has_producer_ids |= has(INIT_PRODUCER_ID);
            let version = most.min(*PRODUCE_VERSIONS.end());
            if key == PRODUCE && version >= least.max(*PRODUCE_VERSIONS.start()) {
                able.produce = Some(version);
            }
        }
        Ok(able)
    }

    /// The error, and the ways to log in that there are.
    pub(super) fn mechanisms(mut self) -> Result<(i16, Vec<String>), Malformed> {
        let error = self.i16()?;
        let mut mechanisms = Vec::new();
        for _ in 0..self.count()? {
            mechanisms.push(self.text()?.unwrap_or_default());
        }
        Ok((error, mechanisms))
    }

    /// The error, its words, and what the other side says.
    pub(super) fn sasl(mut self) -> Result<(i16, String, Vec<u8>), Malformed> {
        let (error, words) = (self.i16()?, self.text()?.unwrap_or_default());
        let length = usize::try_from(self.i32()?).unwrap_or_default();
        Ok((error, words, self.bytes(length)?.to_vec()))
    }

    /// The error, the producer's number and its epoch.
    pub(super) fn producer_id(mut self) -> Result<(i16, i64, i16), Malformed> {
        self.i32()?;
        Ok((self.i16()?, self.i64()?, self.i16()?))
    }

    pub(super) fn metadata(mut self, topic: &str) -> Result<Metadata, Malformed> {
        self.i32()?;
        let mut brokers = Vec::new();
        for _ in 0..self.count()? {
            let (id, host, port) = (self.i32()?, self.text()?.unwrap_or_default(), self.i32()?);
            self.text()?;
            let port = u16::try_from(port).map_err(|_| Malformed("the broker named a port over 65535"))?;
            brokers.push(Node { id, host, port });
        }
        self.text()?;
        self.i32()?;
        let mut found = None;
        for _ in 0..self.count()? {
            let (error, name) = (self.i16()?, self.text()?);
            self.take::<1>()?;
            let leaders = self.leaders()?;
            if name.as_deref() == Some(topic) {
                found = Some((error, leaders));
            }
        }
        let (error, leaders) = found.ok_or(Malformed("the broker told of another topic than it was asked for"))?;
        Ok(Metadata { brokers, error, leaders })
    }

    fn leaders(&mut self) -> Result<Vec<i32>, Malformed> {
        let mut leaders = Vec::new();
        for _ in 0..self.count()? {
            self.i16()?;
            let (partition, leader) = (self.i32()?, self.i32()?);
            for _ in 0..2 {
                let length = self.count()?.checked_mul(4).ok_or(CUT_SHORT)?;
                self.bytes(length)?;
            }
            leaders.push((partition, leader));
        }
        leaders.sort_unstable();
        let is_gapless = leaders.iter().zip(0..).all(|((partition, _), number)| *partition == number);
        if !is_gapless {
            return Err(Malformed("the broker's partitions are not numbered from 0"));
        }
        Ok(leaders.into_iter().map(|(_, leader)| leader).collect())
    }

    pub(super) fn produced(mut self, version: i16) -> Result<Produced, Malformed> {
        if self.count()? != 1 {
            return Err(Malformed("the broker answered for other topics than the one"));
        }
        self.text()?;
        if self.count()? != 1 {
            return Err(Malformed("the broker answered for other partitions than the one"));
        }
        self.i32()?;
        let error = self.i16()?;
        // Its offset and the time at which it was appended.
        self.bytes(16)?;
        if version >= 5 {
            self.i64()?;
        }
        if version < 8 {
            return Ok(Produced { error, message: None });
        }
        let mut first = None;
        for _ in 0..self.count()? {
            self.i32()?;
            first = first.or(self.text()?);
        }
        let message = self.text()?;
        Ok(Produced { error, message: message.or(first) })
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(CUT_SHORT)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn i16(&mut self) -> Result<i16, Malformed> {
        self.take().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, Malformed> {
        self.take().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, Malformed> {
        self.take().map(i64::from_be_bytes)
    }

    /// How many elements follow; each is read before the next, so that a lie ends with the bytes.
    fn count(&mut self) -> Result<usize, Malformed> {
        self.i32().map(|count| usize::try_from(count).unwrap_or_default())
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(CUT_SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn text(&mut self) -> Result<Option<String>, Malformed> {
        match usize::try_from(self.i16()?) {
            Ok(length) => Ok(Some(String::from_utf8_lossy(self.bytes(length)?).into_owned())),
            Err(_) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_written_as_the_guide_has_it() {
        let golden = b"\0\0\0\x1C\0\x03\0\x04\0\0\0\x07\0\x07hms-ess\0\0\0\x01\0\x04rule\0";
        assert_eq!(request(METADATA, 7, &metadata("rule")), golden);
        let golden = b"\xFF\xFF\xFF\xFF\0\0\x75\x30\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\x02\0\0\0\x03abc";
        assert_eq!(produce("t", 2, 30_000, 3, |out| out.extend_from_slice(b"abc")), golden);
    }

    #[test]
    fn what_a_broker_says_is_read() {
        let answer = |bytes: &'static [u8]| Answer::to(7, bytes).unwrap();
        let able = answer(b"\0\0\0\x07\0\0\0\0\0\x02\0\0\0\x03\0\x0C\0\x03\0\0\0\x0D").abilities().unwrap();
        let wanted = Abilities { produce: Some(8), has_metadata: true, has_sasl: false, has_producer_ids: false };
        assert_eq!(able, wanted);
        let metadata = answer(
            b"\0\0\0\x07\0\0\0\0\0\0\0\x01\0\0\0\x09\0\x01h\0\0\x23\x84\xFF\xFF\xFF\xFF\0\0\0\x09\0\0\0\x01\0\0\0\x01t\0\
              \0\0\0\x02\0\0\0\0\0\x01\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x09\0\0\0\x01\0\0\0\x09\0\0\0\0",
        );
        let wanted =
            Metadata { brokers: vec![Node { id: 9, host: "h".to_owned(), port: 9092 }], error: 0, leaders: vec![9, 8] };
        assert_eq!(metadata.metadata("t"), Ok(wanted));
        let produced = answer(
            b"\0\0\0\x07\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\0\0\x57\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
              \0\0\0\x01\0\0\0\0\0\x02no\xFF\xFF\0\0\0\0",
        );
        assert_eq!(produced.produced(8), Ok(Produced { error: 87, message: Some("no".to_owned()) }));
    }

    #[test]
    fn a_hostile_broker_is_told_from_a_slow_one() {
        for broken in [b"HTTP/1.1 400".as_slice(), b"\x15\x03\x01\0\x02\x02\x0A", b"\0\0\0\x01\0", b"\xFF\xFF\xFF\xFF"]
        {
            assert!(next(&mut BytesMut::from(broken)).is_err(), "{broken:?}");
        }
        for slow in [b"".as_slice(), b"\0\0", b"\0\0\0\x05\0\0\0\x01"] {
            assert_eq!(next(&mut BytesMut::from(slow)), Ok(None));
        }
        assert!(Answer::to(1, b"\0\0\0\x02").is_err());
        let lie = |bytes: &'static [u8]| Answer::to(0, bytes).unwrap();
        assert_eq!(lie(b"\0\0\0\0\0\0\x7F\xFF\xFF\xFF\0\x01").abilities(), Err(CUT_SHORT));
        assert_eq!(lie(b"\0\0\0\0\0\0\0\0\x7F\xFF\xFF\xFF").metadata("t"), Err(CUT_SHORT));
        assert_eq!(lie(b"\0\0\0\0\0\0\x7F\xFF\0").sasl(), Err(CUT_SHORT));
    }
}
