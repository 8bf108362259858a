//! Downloads onto the target, each known beforehand by its digest. Plain ones are our own; encrypted and
//! redirected ones are left to the target's curl or apt.

use crate::{
    model::Digest,
    remote::{
        command::Invocation,
        host::{Context, failure, failure_with},
        http::Call,
        protocol::Failure,
    },
};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(600);

/// The content of `url`, which must have the digest `expected`.
pub(crate) async fn fetch(context: &Context<'_>, url: &str, expected: Digest) -> Result<Vec<u8>, Failure> {
    context.waiting(format!("download of {url}"));
    let plain = if url.starts_with("http://") { plain(url).await? } else { None };
    let content = match plain {
        Some(content) => content,
        None => by_tool(context, url).await?,
    };
    let found = Digest::of(&content);
    if found == expected {
        return Ok(content);
    }
    Err(failure_with(
        format!("{url} has the SHA-256 {found}, expected {expected}"),
        "correct the digest in the inventory if the publisher says so; otherwise the download is damaged or forged",
    ))
}

/// The content at a plain URL; none when it leads elsewhere.
async fn plain(url: &str) -> Result<Option<Vec<u8>>, Failure> {
    let next_step =
        "see whether the host reaches the address (proxy, firewall, name resolution), or use `src`";
    let response = Call::get(url)
        .limit(LIMIT)
        .run()
        .await
        .map_err(|error| failure_with(error.to_string(), next_step))?;
    match response.status {
        200 => Ok(Some(response.body.to_vec())),
        300..=399 => Ok(None),
        status => Err(failure_with(format!("{url} answered with status {status}"), "correct the address")),
    }
}

async fn by_tool(context: &Context<'_>, url: &str) -> Result<Vec<u8>, Failure> {
    let folder = tempfile::tempdir().map_err(|error| failure(format!("no temporary directory: {error}")))?;
    let file = folder.path().join("download");
    let path = file.display().to_string();
    let curl = Invocation::new("curl").args(["-fsSL", "--retry", "2", "-o", &path, "--", url]).limit(LIMIT);
    let apt = Invocation::new("/usr/lib/apt/apt-helper").args(["download-file", url, &path]).limit(LIMIT);
    let purpose = format!("{url} could not be fetched");
    let has_curl = ["/usr/bin/curl", "/bin/curl", "/usr/local/bin/curl"]
        .iter()
        .any(|path| context.host.path(path).exists());
    let command = if has_curl { curl } else { apt };
    command.success(context.host, &purpose).await.map_err(|failure| Failure {
        next_step: Some(
            "see whether the host reaches the address and has `ca-certificates`, or use `src`".to_owned(),
        ),
        ..failure
    })?;
    std::fs::read(&file).map_err(|error| failure(format!("{url}: {error}")))
}
