//! A caller of Connect, over HTTP/1.1.

use super::service::{Replica, plain_http};
use bytes::Bytes;
use flate2::{
    Compression,
    read::{GzDecoder, GzEncoder},
};
use http::{HeaderMap, HeaderName};
use reqwest::{Body, Response};
use serde_json::Value;
use std::io::Read;

pub const CHECK: &str = "/entitlements.v1.Entitlements/CheckFeature";

/// An answer with its bytes.
#[derive(Debug)]
pub struct ConnectAnswer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl ConnectAnswer {
    pub fn header(&self, name: &HeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The JSON of the body, decompressed.
    pub fn json(&self) -> Value {
        let is_gzip = self.headers.get("content-encoding").is_some();
        let mut body = Vec::new();
        if is_gzip {
            GzDecoder::new(&*self.body).read_to_end(&mut body).unwrap();
        } else {
            body.extend_from_slice(&self.body);
        }
        serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of an error; empty for another answer.
    pub fn code(&self) -> String {
        let json = if self.status == 200 { Value::Null } else { self.json() };
        json["code"].as_str().unwrap_or_default().into()
    }

    /// The message of an error.
    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().into()
    }
}

/// Opens a call, and returns the head of the answer.
pub async fn open(
    replica: &Replica,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Response {
    send(replica, "POST", path, headers, body).await
}

/// Calls a method by POST.
pub async fn call(
    replica: &Replica,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> ConnectAnswer {
    message(replica, "POST", path, headers, body).await
}

/// Sends a request with this method of HTTP.
pub async fn message(
    replica: &Replica,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> ConnectAnswer {
    let response = send(replica, method, path, headers, body).await;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    ConnectAnswer { status, headers, body: response.bytes().await.unwrap() }
}

async fn send(
    replica: &Replica,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Response {
    let url = format!("http://{}{path}", replica.bound.api);
    let mut request = plain_http().request(method.parse().unwrap(), url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).send().await.unwrap()
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut zipped = Vec::new();
    GzEncoder::new(content, Compression::best()).read_to_end(&mut zipped).unwrap();
    zipped
}
