//! `/auth/{feature}`: asked by nginx's `auth_request`, Caddy's `forward_auth` and Traefik's `ForwardAuth` before they
//! let a request through. Any method is taken, because some ask with that of the request.

use super::{Gateways, Passage, Route, not_let_in};
use crate::{
    api::http_protocols::{FORWARD_AUTH, Gate, Reply},
    clerk::Credentials,
    server::http::response::{Answer, json_body},
};
use http::{HeaderValue, Request, StatusCode, header};
use percent_encoding::percent_decode_str;
use std::sync::Arc;

/// Answers gateways that ask over HTTP.
pub struct ForwardAuth {
    gateways: Arc<Gateways>,
}

impl ForwardAuth {
    /// Answers what these gateways are told.
    #[must_use]
    pub fn new(gateways: Arc<Gateways>) -> Self {
        Self { gateways }
    }

    /// Answers one request; the status of a denial may be in the query.
    pub(in crate::api) async fn answer<B>(&self, request: &Request<B>, gate: Gate) -> Reply {
        match gate {
            Gate::Open => {}
            Gate::Closed(_) => return tell(not_let_in()),
        }
        let fields = request.headers().iter();
        let fields = fields.map(|(name, value)| (name.as_str(), value.as_bytes()));
        let credentials = Credentials::of(fields);
        let path = request.uri().path();
        let feature = percent_decode_str(path.strip_prefix(FORWARD_AUTH).unwrap_or_default());
        let feature = feature.decode_utf8_lossy();
        let mut pairs = request.uri().query().unwrap_or_default().split('&');
        let denied = pairs.find_map(|pair| pair.strip_prefix("denied="));
        let session = self.gateways.session(&credentials).await;
        tell(self.gateways.pass(session, Route { feature: &feature, denied }).await)
    }
}

fn tell(passage: Passage) -> Reply {
    let status = StatusCode::from_u16(passage.status).expect("a status of ours");
    let mut answer: Answer = json_body(status, &passage.body);
    // A gateway's cache knows only the path, and would tell one user's answer to another.
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in passage.headers {
        // A slug may have letters that no header has: nobody is served with less, but for that header.
        if let Ok(value) = HeaderValue::try_from(value) {
            answer.headers_mut().insert(name, value);
        }
    }
    Reply { answer, result: passage.result }
}
