//! Uploads an image, from where it stands, as often as the way there breaks.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::images::Image;
use crate::{
    client::{Client, ImageStanding, Refused},
    output::{Bar, duration_ms, mebibytes, plain},
};

/// Breaks without a byte of progress between them, after which the upload is given up.
const BREAKS_MAX: u32 = 10;
/// Pause after a break: the platform restarts what has died within that.
const PAUSE: Duration = Duration::from_secs(1);

/// Uploads what the platform has not got.
pub(super) async fn upload(client: &Client, project: &str, image: &Image) -> Result<()> {
    let path = format!("/api/v1/projects/{project}/images/{}", image.hash);
    let shown = plain(&image.path);
    let started = Instant::now();
    let (mut breaks, mut stood_at, mut sent) = (0, 0, false);
    loop {
        let error = match attempt(client, &path, &shown, image, &mut stood_at, &mut sent).await {
            Ok(true) if sent => {
                let took = duration_ms(started.elapsed().as_millis() as u64);
                eprintln!("uploaded   {shown}, {} in {took}", mebibytes(image.len));
                return Ok(());
            }
            Ok(true) => {
                eprintln!("unchanged  {shown}");
                return Ok(());
            }
            Ok(false) => {
                breaks = 0;
                continue;
            }
            Err(Broken { error, progress }) => {
                if progress {
                    breaks = 0;
                }
                error
            }
        };
        breaks += 1;
        if error.is::<Refused>() || breaks > BREAKS_MAX {
            return Err(error.context(format!("the image {shown} was not uploaded")));
        }
        eprintln!("broken     {shown}: {error:#}; going on");
        tokio::time::sleep(PAUSE).await;
    }
}

/// An attempt that broke off.
struct Broken {
    error: anyhow::Error,
    /// More is there than before it.
    progress: bool,
}

/// Asks where the image stands and sends what is missing; true when all is there.
async fn attempt(
    client: &Client,
    path: &str,
    shown: &str,
    image: &Image,
    stood_at: &mut u64,
    sent: &mut bool,
) -> Result<bool, Broken> {
    let broken = |error, progress| Broken { error, progress };
    let standing: ImageStanding = client
        .standing(path)
        .await
        .map_err(|error| broken(error, false))?;
    if standing.complete {
        return Ok(true);
    }
    if standing.offset > image.len {
        let error = anyhow!(Refused(format!(
            "the platform has {} bytes of an image of {}",
            standing.offset, image.len
        )));
        return Err(broken(error, false));
    }
    let progress = standing.offset > *stood_at;
    *stood_at = standing.offset;
    *sent = true;
    let bar = Bar::new(format!("uploading  {shown}"), image.len);
    let file = image
        .file
        .try_clone()
        .map_err(|error| broken(error.into(), progress))?;
    let standing = client
        .send_image(path, file, standing.offset, image.len, bar)
        .await
        .map_err(|error| broken(error, progress))?;
    Ok(standing.complete)
}
