//! How Clerk is asked: over https, unless it is on this machine; without following redirects; for answers of a bounded
//! size. Plain http would let anybody in between read the secret key, or publish keys of their own.

use crate::{domain::loopback::is_this_machine, telemetry::told};
use reqwest::{Client, ClientBuilder, Response, Url, redirect::Policy};

/// Why a URL of Clerk's cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InvalidUrl {
    /// The text is not a URL with a host.
    Malformed,
    /// The connection would not be encrypted.
    PlainText,
}

/// Why an answer was not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unread {
    Failed(String),
    /// It is larger than this many bytes.
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

/// A client for this URL, which goes there and nowhere else. What is on this machine is not asked through a proxy.
pub(super) fn client(url: &Url) -> ClientBuilder {
    let client = Client::builder().redirect(Policy::none());
    if is_on_this_machine(url) { client.no_proxy() } else { client }
}

/// Reads an answer of at most this many bytes.
pub(super) async fn read(mut answer: Response, most: usize) -> Result<Vec<u8>, Unread> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| Unread::Failed(failure(e)))? {
        if body.len() + chunk.len() > most {
            return Err(Unread::TooLarge(most));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What went wrong, and why; the URL is not part of it.
pub(super) fn failure(error: reqwest::Error) -> String {
    told(&error.without_url())
}

impl From<Unread> for String {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Failed(failure) => failure,
            Unread::TooLarge(most) => format!("the answer is larger than {} KiB", most / 1024),
        }
    }
}
