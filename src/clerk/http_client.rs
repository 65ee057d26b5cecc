//! The HTTP client for Clerk's APIs: HTTPS only, except to this machine; no redirects; answers of a bounded size. Plain
//! HTTP would let an attacker on the network read the secret key or replace the published keys.

use crate::{domain::loopback::is_this_machine, telemetry::error_chain};
use reqwest::{Client, ClientBuilder, Response, Url, redirect::Policy};

/// Why the URL of an API is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InvalidUrl {
    /// The text is not a URL with a host.
    Malformed,
    /// The connection would not be encrypted.
    PlainText,
}

/// Why the body of an answer could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ResponseError {
    Failed(String),
    /// The body is larger than this limit, in bytes.
    TooLarge(usize),
}

/// Parses the URL of one of Clerk's APIs.
pub(super) fn url(text: &str) -> Result<Url, InvalidUrl> {
    let url = Url::parse(text.trim()).ok().filter(Url::has_host).ok_or(InvalidUrl::Malformed)?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_on_this_machine(&url) => Ok(url),
        "http" => Err(InvalidUrl::PlainText),
        _ => Err(InvalidUrl::Malformed),
    }
}

fn is_on_this_machine(url: &Url) -> bool {
    url.host_str().is_some_and(is_this_machine)
}

/// A client for this URL that follows no redirects, and uses no proxy for a URL on this machine.
pub(super) fn client(url: &Url) -> ClientBuilder {
    let client = Client::builder().redirect(Policy::none());
    if is_on_this_machine(url) { client.no_proxy() } else { client }
}

/// Reads the body of an answer, up to a limit in bytes.
pub(super) async fn read(mut answer: Response, limit: usize) -> Result<Vec<u8>, ResponseError> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| ResponseError::Failed(failure(e)))? {
        if body.len() + chunk.len() > limit {
            return Err(ResponseError::TooLarge(limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// An error with its sources, without the URL.
pub(super) fn failure(error: reqwest::Error) -> String {
    error_chain(&error.without_url())
}

impl From<ResponseError> for String {
    fn from(error: ResponseError) -> Self {
        match error {
            ResponseError::Failed(failure) => failure,
            ResponseError::TooLarge(limit) => {
                format!("the answer is larger than {} KiB", limit / 1024)
            }
        }
    }
}
