//! Images: how much of one is there, and its bytes.
//!
//! The fields are those of the IETF's resumable uploads (draft-ietf-httpbis-resumable-upload): a client asks where
//! the upload stands and sends what is missing, as often as it takes.

use http::{HeaderName, HeaderValue, StatusCode};
use isms_http::{Incoming, Problem, Upload};
use isms_protocol::{
    ContentHash, ErrorCode, Message, ProjectId, Service,
    resadmin::{Image, ImageState, Operation, UploadImage},
};
use serde_json::json;
use tokio::time::Instant;

use super::{ASK_TIMEOUT, Answer, Call, json};

/// Bytes that are there, or where the bytes of a request begin.
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
/// Length of the whole image.
const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
/// Whether all is there, as a structured field.
const UPLOAD_COMPLETE: HeaderName = HeaderName::from_static("upload-complete");

impl Call<'_> {
    /// Tells how much of an image the project has uploaded.
    pub(super) async fn show_image(&self) -> Answer {
        let image = self.image()?;
        let project = self.parameter(0).to_owned();
        let operation = Operation::Image as u16;
        let header = self.header(Service::Resadmin, operation, ProjectId::NONE, ASK_TIMEOUT);
        let state = self.ask(header, &Image { project, image }).await?;
        answer(image, state)
    }

    /// Takes bytes of an image, from where it stands.
    pub(super) async fn upload_image(&self, body: Incoming) -> Answer {
        let image = self.image()?;
        let config = &self.gate.config;
        let within = config.image_timeout();
        let asked = UploadImage {
            project: self.parameter(0).to_owned(),
            image,
            len: self.number(&UPLOAD_LENGTH)?,
            offset: self.number(&UPLOAD_OFFSET)?,
        };
        let upload = Upload {
            body,
            len_max: config.image_len_max,
            deadline: Instant::now() + within,
        };
        let operation = Operation::UploadImage as u16;
        let header = self.header(Service::Resadmin, operation, ProjectId::NONE, within);
        let exchange = upload
            .call(&self.gate.link, |_| Ok(Message::with_body(header, &asked)))
            .await?;
        let state = exchange.message().decode_body().map_err(|error| {
            tracing::error!(%error, "resadmin gave a malformed answer");
            Problem::new(ErrorCode::Internal, "resadmin gave a malformed answer")
        })?;
        answer(image, state)
    }

    fn image(&self) -> Result<ContentHash, Problem> {
        self.parameter(1).parse().map_err(|error| {
            let detail = format!("the path does not name an image: {error}");
            Problem::new(ErrorCode::Invalid, detail)
        })
    }

    /// A header field that holds one number.
    fn number(&self, name: &HeaderName) -> Result<u64, Problem> {
        let mut values = self.parts.headers.get_all(name).iter();
        let value = values.next().filter(|_| values.next().is_none());
        let digits = value
            .and_then(|value| value.to_str().ok())
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let number = digits.and_then(|digits| digits.parse().ok());
        number.ok_or_else(|| {
            let detail = format!("the field {name} is missing or not one number");
            Problem::new(ErrorCode::Invalid, detail)
        })
    }
}

fn answer(image: ContentHash, state: ImageState) -> Answer {
    let ImageState { offset, complete } = state;
    let shown = json!({ "image": image.to_string(), "offset": offset, "complete": complete });
    let mut response = json(StatusCode::OK, &shown)?;
    let headers = response.headers_mut();
    headers.insert(UPLOAD_OFFSET, HeaderValue::from(offset));
    let complete = if complete { "?1" } else { "?0" };
    headers.insert(UPLOAD_COMPLETE, HeaderValue::from_static(complete));
    Ok(response)
}
