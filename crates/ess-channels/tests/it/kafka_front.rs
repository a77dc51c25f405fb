//! A front of ours before the Kafka brokers that protects them by TLS and SASL, and loses confirms. It ends when it is
//! dropped.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::kafka_cluster::Brokers;
use crate::partner::Partner;

/// What the front does before it passes requests on.
#[derive(Clone, Default)]
pub(crate) struct Rules {
    pub(crate) tls: Option<TlsAcceptor>,
    /// Names and answers of a log-in: a mechanism, then for each step what is expected and what is answered.
    pub(crate) login: Option<fn(&str) -> Login>,
    /// The confirm of this produce, counted from 1, is lost with its connection.
    pub(crate) loses: Option<usize>,
}

/// A log-in under way, as a server of the mechanism has it: takes what the client says, gives the answer or an error.
pub(crate) type Login = Box<dyn FnMut(&[u8]) -> Result<Vec<u8>, String> + Send>;

/// A way to the brokers, and under which numbers messages came by it: producer, epoch, sequence.
pub(crate) struct Front {
    partner: Partner,
    pub(crate) stamps: Arc<Mutex<Vec<(i64, i16, i32)>>>,
}

impl Front {
    pub(crate) async fn of(brokers: &Brokers, rules: Rules) -> Front {
        let server = brokers.addresses[0];
        let stamps = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&stamps);
        let partner = Partner::start(move |stream, _| {
            let (rules, seen) = (rules.clone(), Arc::clone(&seen));
            async move {
                let server = TcpStream::connect(server).await.unwrap();
                match &rules.tls {
                    Some(tls) => {
                        let Ok(stream) = tls.accept(stream).await else { return };
                        carry(stream, server, &rules, &seen).await;
                    }
                    None => carry(stream, server, &rules, &seen).await,
                }
            }
        })
        .await;
        brokers.tell(&format!("say 1 {}", partner.address));
        Front { partner, stamps }
    }

    pub(crate) fn port(&self) -> u16 {
        self.partner.address.port()
    }
}

/// One request after the other: those of the log-in are answered here, the others there.
async fn carry(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    mut server: TcpStream,
    rules: &Rules,
    seen: &Mutex<Vec<(i64, i16, i32)>>,
) {
    let (mut login, mut is_in) = (None, rules.login.is_none());
    while let Some(request) = read_frame(&mut client).await {
        let key = i16::from_be_bytes([request[0], request[1]]);
        // Correlation, client's name, then what the request says.
        let (correlation, said) = (&request[4..8], &request[10 + "hms-ess".len()..]);
        let answer = match (key, rules.login) {
            (18, Some(_)) => {
                let mut able = b"\0\0\0\0\0\x05".to_vec();
                for (key, most) in [(0_i16, 7_i16), (3, 4), (17, 1), (22, 0), (36, 0)] {
                    able.extend([key.to_be_bytes(), 0_i16.to_be_bytes(), most.to_be_bytes()].concat());
                }
                able
            }
            (17, Some(begin)) => {
                let mechanism = String::from_utf8(said[2..].to_vec()).unwrap();
                let is_offered = matches!(mechanism.as_str(), "PLAIN" | "SCRAM-SHA-256");
                login = is_offered.then(|| begin(&mechanism));
                let error: i16 = if is_offered { 0 } else { 33 };
                [&error.to_be_bytes(), b"\0\0\0\x01\0\x0DSCRAM-SHA-256".as_slice()].concat()
            }
            (36, Some(_)) => match login.as_mut().unwrap()(&said[4..]) {
                Ok(answer) => {
                    is_in = true;
                    let length = u32::try_from(answer.len()).unwrap().to_be_bytes();
                    [b"\0\0\xFF\xFF".as_slice(), &length, &answer].concat()
                }
                Err(why) => {
                    let length = u16::try_from(why.len()).unwrap().to_be_bytes();
                    [b"\0\x3A".as_slice(), &length, why.as_bytes(), b"\0\0\0\0"].concat()
                }
            },
            // As a broker does to one that has not logged in.
            _ if !is_in => return,
            _ => {
                let is_lost = key == 0 && rules.loses == Some(note(&request, seen));
                write_frame(&mut server, &request).await;
                let Some(answer) = read_frame(&mut server).await else { return };
                if is_lost {
                    return;
                }
                write_frame(&mut client, &answer).await;
                continue;
            }
        };
        write_frame(&mut client, &[correlation, &answer].concat()).await;
    }
}

/// Notes under which number a message came; gives how many came so far.
fn note(request: &[u8], seen: &Mutex<Vec<(i64, i16, i32)>>) -> usize {
    // The batch of one record begins with offset 0, its length, and the leader's epoch of -1 with magic 2 behind it.
    let at = request.windows(5).position(|five| five == b"\xFF\xFF\xFF\xFF\x02").unwrap();
    let stamp = &request[at + 5 + 4 + 6 + 16..];
    let mut seen = seen.lock().unwrap();
    seen.push((
        i64::from_be_bytes(stamp[..8].try_into().unwrap()),
        i16::from_be_bytes(stamp[8..10].try_into().unwrap()),
        i32::from_be_bytes(stamp[10..14].try_into().unwrap()),
    ));
    seen.len()
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let length = stream.read_u32().await.ok()?;
    let mut frame = vec![0; length as usize];
    stream.read_exact(&mut frame).await.ok()?;
    Some(frame)
}

async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), frame: &[u8]) {
    let length = u32::try_from(frame.len()).unwrap().to_be_bytes();
    let _ = stream.write_all(&[&length, frame].concat()).await;
    let _ = stream.flush().await;
}
