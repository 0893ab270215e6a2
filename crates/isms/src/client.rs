//! The command line's side of the management API.

use std::{
    fmt,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    pin::Pin,
    task::{self, Poll},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, Uri,
    body::{Body, Frame, Incoming, SizeHint},
    header,
    http::request::Builder,
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use crate::{
    cli::PlatformArgs,
    data_dir::{ADMIN_TOKEN_FILE, GATE_ADDRESS_FILE},
    output::Bar,
    settings::default_data_dir,
};

/// Longest answer that is held whole.
const ANSWER_LEN_MAX: usize = 64 * 1024 * 1024;
/// Bytes of a file that are sent at a time.
const PIECE_LEN: usize = 64 * 1024;
/// Longest line of a streamed answer.
const LINE_LEN_MAX: usize = 1024 * 1024;

/// The platform refused; exit code 3.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) String);

/// The platform cannot be reached; exit code 4.
#[derive(Debug)]
pub(crate) struct Unreachable(pub(crate) String);

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&crate::output::plain(&self.0))
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}
impl std::error::Error for Unreachable {}

/// The exit code that an error deserves.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    if error.chain().any(|cause| cause.is::<Refused>()) {
        3
    } else if error.chain().any(|cause| cause.is::<Unreachable>()) {
        4
    } else {
        1
    }
}

/// Where the platform is and who asks.
pub(crate) struct Client {
    host: String,
    token: String,
}

/// How much of an image the platform has.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
pub(crate) struct ImageStanding {
    pub(crate) offset: u64,
    pub(crate) complete: bool,
}

/// The bytes of a file as a request's body, and the bar that shows how far it is.
struct FileBody {
    file: File,
    offset: u64,
    end: u64,
    bar: Bar,
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    /// Reads the next piece. It does so in place: this program waits for nothing else meanwhile.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut task::Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        let left = this.end - this.offset;
        if left == 0 {
            return Poll::Ready(None);
        }
        let mut piece = vec![0; PIECE_LEN.min(usize::try_from(left).unwrap_or(usize::MAX))];
        let count = match this.file.read_at(&mut piece, this.offset) {
            Ok(0) => {
                let error = "the image became shorter while it was sent";
                return Poll::Ready(Some(Err(io::Error::other(error))));
            }
            Ok(count) => count,
            Err(error) => return Poll::Ready(Some(Err(error))),
        };
        piece.truncate(count);
        this.offset += count as u64;
        this.bar.advance(this.offset);
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.offset)
    }
}

/// One problem of RFC 9457, as far as people need it.
#[derive(serde::Deserialize)]
struct Problem {
    title: String,
    detail: Option<String>,
}

impl Client {
    /// Finds the platform: `ISMS_URL` and `ISMS_TOKEN`, else what a data directory holds.
    pub(crate) fn find(platform: &PlatformArgs) -> Result<Client> {
        Client::find_by(platform, "--data")
    }

    /// As [`Client::find`], of a command whose flag for the data directory has this name.
    pub(crate) fn find_by(platform: &PlatformArgs, flag: &str) -> Result<Client> {
        let data = || platform.data.clone().map_or_else(default_data_dir, Ok);
        let (url, token) = (std::env::var("ISMS_URL"), std::env::var("ISMS_TOKEN"));
        // The token of the platform on this machine must not go to whatever ISMS_URL names.
        ensure!(
            url.is_err() || token.is_ok() || platform.data.is_some(),
            "ISMS_URL is set and ISMS_TOKEN is not: set it to a token of that platform (`isms token create` there \
             makes one), or take ISMS_URL away to use the platform of this machine"
        );
        let host = match url {
            Ok(url) => host_of(&url)?,
            Err(_) => read(
                data()?.join(GATE_ADDRESS_FILE),
                "the platform does not run, or its data is elsewhere",
                flag,
            )?,
        };
        let token = match token {
            Ok(token) => token,
            Err(_) => read(data()?.join(ADMIN_TOKEN_FILE), "there is no token", flag)?,
        };
        Ok(Client { host, token })
    }

    /// Asks and decodes the JSON answer.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.json("GET", path, Bytes::new()).await
    }

    /// Sends a body and decodes the JSON answer.
    pub(crate) async fn json<T: DeserializeOwned>(&self, method: &str, path: &str, body: Bytes) -> Result<T> {
        let answer = collect(accepted(self.send(method, path, body).await?).await?).await?;
        serde_json::from_slice(&answer).with_context(|| format!("the answer to {path} cannot be read"))
    }

    /// Sends a body and gives every line of the answer to `each`, as it comes.
    pub(crate) async fn lines(
        &self,
        method: &str,
        path: &str,
        body: Bytes,
        mut each: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut answer = accepted(self.send(method, path, body).await?).await?.into_body();
        let mut pending = Vec::new();
        while let Some(frame) = answer.frame().await {
            let Ok(data) = frame.context("the answer broke off")?.into_data() else {
                continue;
            };
            pending.extend_from_slice(&data);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                each(&line[..end])?;
            }
            if pending.len() > LINE_LEN_MAX {
                bail!("the answer has a line of more than {LINE_LEN_MAX} bytes");
            }
        }
        if pending.is_empty() {
            Ok(())
        } else {
            each(&pending)
        }
    }

    /// Sends a body; a refusal of the platform is an error, any other answer is given whole.
    pub(crate) async fn whole(&self, method: &str, path: &str, body: Bytes) -> Result<Bytes> {
        collect(accepted(self.send(method, path, body).await?).await?).await
    }

    /// Calls with these header fields and gives the answer whole.
    pub(crate) async fn call(&self, path: &str, fields: &[(&str, String)], body: Bytes) -> Result<Bytes> {
        let mut request = Request::builder().method("POST").uri(path);
        for (name, value) in fields {
            request = request.header(*name, value);
        }
        collect(accepted(self.exchange(request, Full::new(body)).await?).await?).await
    }

    /// The whole URL of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.host)
    }

    /// Asks where an image stands.
    pub(crate) async fn standing(&self, path: &str) -> Result<ImageStanding> {
        let response = self.send("GET", path, Bytes::new()).await?;
        image_standing(response, path).await
    }

    /// Sends the bytes of an image from an offset on; returns where it stands then.
    pub(crate) async fn send_image(
        &self,
        path: &str,
        file: File,
        offset: u64,
        len: u64,
        bar: Bar,
    ) -> Result<ImageStanding> {
        let request = Request::builder()
            .method("PATCH")
            .uri(path)
            .header(header::CONTENT_TYPE, "application/partial-upload")
            .header("upload-offset", offset)
            .header("upload-length", len);
        let body = FileBody {
            file,
            offset,
            end: len,
            bar,
        };
        image_standing(self.exchange(request, body).await?, path).await
    }

    async fn send(&self, method: &str, path: &str, body: Bytes) -> Result<Response<Incoming>> {
        let request = Request::builder().method(method).uri(path);
        self.exchange(request, Full::new(body)).await
    }

    async fn exchange<B>(&self, request: Builder, body: B) -> Result<Response<Incoming>>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let unreachable = |error: &dyn fmt::Display| {
            anyhow!(Unreachable(format!(
                "cannot reach the platform at {}: {error}; start it with `isms up`, or set ISMS_URL",
                self.host
            )))
        };
        let stream = TcpStream::connect(&self.host)
            .await
            .map_err(|error| unreachable(&error))?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = request
            .header(header::HOST, &self.host)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .body(body)
            .context("the request cannot be formed")?;
        sender
            .send_request(request)
            .await
            .map_err(|error| unreachable(&error))
    }
}

/// Where an image stands; a problem that passes by itself (the platform is busy or restarts, somebody was faster) is
/// an error, but no refusal.
async fn image_standing(response: Response<Incoming>, path: &str) -> Result<ImageStanding> {
    let status = response.status();
    let passes = matches!(status.as_u16(), 408 | 409 | 499 | 502..=504);
    let answer = match accepted(response).await {
        Ok(response) => collect(response).await?,
        Err(error) if passes => return Err(anyhow!("{error:#}")),
        Err(error) => return Err(error),
    };
    serde_json::from_slice(&answer).with_context(|| format!("the answer to {path} cannot be read"))
}

/// Turns a problem into an error.
async fn accepted(response: Response<Incoming>) -> Result<Response<Incoming>> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = collect(response).await?;
    let text = match serde_json::from_slice::<Problem>(&body) {
        Ok(Problem {
            title,
            detail: Some(detail),
        }) => format!("{title}: {detail}"),
        Ok(Problem { title, detail: None }) => title,
        Err(_) => format!("{status}: {}", String::from_utf8_lossy(&body)),
    };
    Err(anyhow!(Refused(text)))
}

async fn collect(response: Response<Incoming>) -> Result<Bytes> {
    let body = http_body_util::Limited::new(response.into_body(), ANSWER_LEN_MAX);
    Ok(body
        .collect()
        .await
        .map_err(|error| anyhow!("the answer broke off: {error}"))?
        .to_bytes())
}

fn host_of(url: &str) -> Result<String> {
    let uri: Uri = url
        .parse()
        .with_context(|| format!("ISMS_URL is {url:?}, expected http://HOST:PORT"))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http"), Some(authority)) => {
            let port = authority.port_u16().unwrap_or(80);
            Ok(format!("{}:{port}", authority.host()))
        }
        _ => bail!("ISMS_URL is {url:?}, expected http://HOST:PORT"),
    }
}

fn read(path: PathBuf, otherwise: &str, flag: &str) -> Result<String> {
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) => Err(anyhow!(Unreachable(format!(
            "{otherwise}: cannot read {}: {error}; start it with `isms up`, name its folder with {flag} DIR, \
             or set ISMS_URL and ISMS_TOKEN",
            path.display()
        )))),
    }
}
