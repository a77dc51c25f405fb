//! Raw HTTP/1.1 for the bench's own processes: as little work as a message allows. It trusts its peer and is no client for others.

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Nanoseconds of the machine's steady clock: the same in every process.
pub(super) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Where the head ends, and how long the body is, once the head is there.
pub(super) fn head(bytes: &[u8]) -> Option<(usize, usize)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let length = field(&bytes[..end], b"content-length").and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    Some((end, length.unwrap_or(0)))
}

/// A header's value.
pub(super) fn field<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (found, value) = line.split_at_checked(name.len())?;
        (value.first() == Some(&b':') && found.eq_ignore_ascii_case(name)).then(|| value[1..].trim_ascii())
    })
}

/// Sends a request and reads its answer: status and body. `buffer` is room to be used again.
pub(super) async fn exchange<S>(stream: &mut S, request: &[u8], buffer: &mut Vec<u8>) -> Result<(u16, Vec<u8>)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(request).await?;
    buffer.clear();
    loop {
        if let Some((end, length)) = head(buffer)
            && buffer.len() >= end + length
        {
            let status = std::str::from_utf8(buffer.get(9..12).context("a short answer")?)?.parse()?;
            return Ok((status, buffer[end..end + length].to_vec()));
        }
        if stream.read_buf(buffer).await? == 0 {
            bail!("the other side closed the connection");
        }
    }
}

/// One connection for many requests, blocking.
pub(super) struct Asker {
    runtime: tokio::runtime::Runtime,
    stream: tokio::net::TcpStream,
    buffer: Vec<u8>,
}

impl Asker {
    pub(super) fn connect(address: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stream = runtime.block_on(tokio::net::TcpStream::connect(address))?;
        stream.set_nodelay(true)?;
        Ok(Self { runtime, stream, buffer: Vec::new() })
    }

    /// Sends bytes that are a whole request; the answer's head.
    pub(super) fn ask_for_head(&mut self, request: &[u8]) -> Result<String> {
        self.runtime.block_on(exchange(&mut self.stream, request, &mut self.buffer))?;
        let end = head(&self.buffer).map_or(self.buffer.len(), |(end, _)| end);
        Ok(String::from_utf8_lossy(&self.buffer[..end]).into_owned())
    }

    /// Sends bytes that are a whole request.
    pub(super) fn ask(&mut self, request: &[u8]) -> Result<(u16, String)> {
        let (status, body) = self.runtime.block_on(exchange(&mut self.stream, request, &mut self.buffer))?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

/// A request to the hub.
pub(super) fn request(method: &str, path: &str, token: &str, media_type: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {token}\r\ncontent-type: {media_type}\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A browser's request for a page; `more` are header lines, each with its end.
pub(super) fn page_request(path: &str, cookie: &str, more: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: hub\r\ncookie: {cookie}\r\n{more}\r\n").into_bytes()
}

/// An event of 512 bytes.
pub(super) fn event(id: &str, text: &str) -> String {
    let bare = format!("{{\"id\":\"{id}\",\"version\":1,\"payload\":{{\"deadline\":\"16:00\",\"text\":\"\"}}}}");
    let fill = 512usize.saturating_sub(bare.len());
    format!("{{\"id\":\"{id}\",\"version\":1,\"payload\":{{\"deadline\":\"16:00\",\"text\":\"{text:x<fill$}\"}}}}")
}
