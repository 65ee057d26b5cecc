//! `/auth/{feature}`: nginx's `auth_request`, Caddy's `forward_auth` and Traefik's `ForwardAuth` call it before they
//! forward a request. Every method is accepted, because some gateways use the method of the original request.

use super::{GatewayAuthorizer, GatewayResponse, Route, caller_rejected};
use crate::{
    api::http_protocols::{Admission, FORWARD_AUTH, Reply},
    clerk::Credentials,
    server::http::response::{Answer, json_body},
};
use http::{HeaderValue, Request, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde_json::json;
use std::sync::Arc;

/// Implements forward authentication over HTTP.
pub struct ForwardAuth {
    authorizer: Arc<GatewayAuthorizer>,
}

impl ForwardAuth {
    /// Creates the protocol on this authorizer.
    #[must_use]
    pub fn new(authorizer: Arc<GatewayAuthorizer>) -> Self {
        Self { authorizer }
    }

    /// Answers one request. The query parameter `denied` sets the status of a denial.
    pub(in crate::api) async fn answer<B>(
        &self,
        request: &Request<B>,
        admission: Admission,
    ) -> Reply {
        match admission {
            Admission::Open => {}
            Admission::Closed(_) => return reply(caller_rejected()),
        }
        let fields = request.headers().iter();
        let fields = fields.map(|(name, value)| (name.as_str(), value.as_bytes()));
        let credentials = Credentials::of(fields);
        let path = request.uri().path();
        let feature = percent_decode_str(path.strip_prefix(FORWARD_AUTH).unwrap_or_default());
        let feature = feature.decode_utf8_lossy();
        let mut pairs = request.uri().query().unwrap_or_default().split('&');
        let denied = pairs.find_map(|pair| pair.strip_prefix("denied="));
        let session = self.authorizer.session(&credentials).await;
        match self.authorizer.pass(session, Route { feature: &feature, denied }).await {
            Ok(response) => reply(response),
            Err(unavailable) => reply(GatewayResponse {
                status: 503,
                headers: vec![("retry-after", "1".into())],
                body: json!({ "error": unavailable.reason }),
                result: unavailable.result,
            }),
        }
    }
}

fn reply(response: GatewayResponse) -> Reply {
    let status = StatusCode::from_u16(response.status)
        .expect("all statuses of a gateway response are valid");
    let mut answer: Answer = json_body(status, &response.body);
    // A gateway caches by path only, and would return one user's answer to another.
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in response.headers {
        // A slug may contain characters that a header cannot hold; then only this header is missing.
        if let Ok(value) = HeaderValue::try_from(value) {
            answer.headers_mut().insert(name, value);
        }
    }
    Reply { answer, result: response.result }
}
