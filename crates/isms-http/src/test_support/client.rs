//! An HTTP/1.1 client that sends the bytes it is told to, right or wrong.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::soon;

/// One connection to an edge.
pub struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its fields: name in lower case, value.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Response {
    /// The values of a field, joined by `, `; empty when it is not there.
    pub fn header(&self, name: &str) -> String {
        let values = self
            .headers
            .iter()
            .filter(|(field, _)| field == name)
            .map(|(_, value)| &**value);
        values.collect::<Vec<_>>().join(", ")
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Client {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Client {
        let stream = soon("connect", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Client {
            stream,
            received: Vec::new(),
        }
    }

    /// Connects, sends one request and reads its response.
    pub async fn fetch(address: SocketAddr, request: &str, fields: &[(&str, &str)], body: &[u8]) -> Response {
        Client::connect(address)
            .await
            .exchange(request, fields, body)
            .await
    }

    /// Sends `METHOD TARGET` with fields and a body of known length, and reads the response.
    pub async fn exchange(&mut self, request: &str, fields: &[(&str, &str)], body: &[u8]) -> Response {
        let mut head = format!("{request} HTTP/1.1\r\n");
        if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head += &format!("host: {}\r\n", self.stream.peer_addr().unwrap());
        }
        for (name, value) in fields {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            head += &format!("content-length: {}\r\n", body.len());
        }
        self.send([head.as_bytes(), b"\r\n", body].concat()).await;
        if request.starts_with("HEAD ") {
            self.head().await
        } else {
            self.response().await
        }
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon("send", self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Sends bytes; false when the server has closed the connection.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        soon("send", self.stream.write_all(bytes.as_ref())).await.is_ok()
    }

    /// Reads a response with its body.
    pub async fn response(&mut self) -> Response {
        let mut response = self.head().await;
        if response.header("transfer-encoding") == "chunked" {
            while let Some(chunk) = self.chunk().await {
                response.body.extend(chunk);
            }
        } else if let Ok(len) = response.header("content-length").parse() {
            response.body = self.take(len).await;
        }
        response
    }

    /// Reads a response's head.
    pub async fn head(&mut self) -> Response {
        let head = self.until(b"\r\n\r\n").await;
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let field = |line: &str| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        Response {
            status,
            headers: lines.map(field).collect(),
            body: Vec::new(),
        }
    }

    /// Reads one chunk of a chunked body; `None` at its end.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = String::from_utf8(self.until(b"\r\n").await).unwrap();
        let len = usize::from_str_radix(line.trim_end(), 16).unwrap();
        let mut chunk = self.take(len + 2).await;
        chunk.truncate(len);
        (len > 0).then_some(chunk)
    }

    /// Reads so many bytes.
    pub async fn take(&mut self, len: usize) -> Vec<u8> {
        while self.received.len() < len {
            assert!(
                self.read().await,
                "the server closed the connection within a body"
            );
        }
        self.received.drain(..len).collect()
    }

    /// Waits until the server has closed the connection, and returns what it sent before.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.read().await {}
        std::mem::take(&mut self.received)
    }

    async fn until(&mut self, mark: &[u8]) -> Vec<u8> {
        loop {
            if let Some(start) = self
                .received
                .windows(mark.len())
                .position(|window| window == mark)
            {
                return self.received.drain(..start + mark.len()).collect();
            }
            assert!(
                self.read().await,
                "the server closed the connection after `{}`",
                self.received.escape_ascii()
            );
        }
    }

    /// Reads more; false when there is no more.
    async fn read(&mut self) -> bool {
        // A reset is an end as well: the server closed with bytes of ours unread.
        soon("response", self.stream.read_buf(&mut self.received))
            .await
            .unwrap_or(0)
            > 0
    }
}
