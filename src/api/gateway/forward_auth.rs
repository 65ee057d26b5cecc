//! `/auth/{feature}`: nginx's `auth_request`, Caddy's `forward_auth` and Traefik's `ForwardAuth` call it before they
//! forward a request. Every method is accepted, because some gateways use the method of the original request.

use super::{GatewayAuthorizer, GatewayResponse, Route, caller_rejected};
use crate::{
    api::http_protocols::{ProtocolLayers, Reply},
    clerk::Credentials,
    server::{auth::CredentialSource, http::response::json_body},
    telemetry::Metrics,
};
use axum::{
    Router,
    extract::{Path, Request, State, rejection::PathRejection},
    response::IntoResponse,
    routing::any,
};
use http::{HeaderValue, StatusCode, header};
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

    pub(in crate::api) fn router(self, metrics: &Arc<Metrics>) -> Router {
        // `authorization` has the token of the user to check.
        let source = CredentialSource::ApiKey;
        let refused = |_| reply(caller_rejected());
        let layers = ProtocolLayers::new("forward-auth", source, refused, metrics);
        let routes =
            Router::new().route("/auth/", any(answer)).route("/auth/{*feature}", any(answer));
        layers.count(layers.admit(routes.with_state(self.authorizer), None))
    }
}

/// Answers one request. The query parameter `denied` sets the status of a denial.
async fn answer(
    State(authorizer): State<Arc<GatewayAuthorizer>>,
    feature: Result<Path<String>, PathRejection>,
    request: Request,
) -> Reply {
    let fields = request.headers().iter();
    let fields = fields.map(|(name, value)| (name.as_str(), value.as_bytes()));
    let credentials = Credentials::of(fields);
    // A path without a feature, or with one that is not UTF-8, names no valid feature.
    let feature = feature.map_or_else(|_| String::new(), |Path(feature)| feature);
    let query = request.uri().query().unwrap_or_default();
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let denied = pairs.find_map(|(name, value)| (name == "denied").then_some(value));
    let session = authorizer.session(&credentials).await;
    let route = Route { feature: &feature, denied: denied.as_deref() };
    match authorizer.pass(session, route).await {
        Ok(response) => reply(response),
        Err(unavailable) => reply(GatewayResponse {
            status: 503,
            headers: vec![("retry-after", "1".into())],
            body: json!({ "error": unavailable.reason }),
            result: unavailable.result,
        }),
    }
}

fn reply(response: GatewayResponse) -> Reply {
    let status = StatusCode::from_u16(response.status)
        .expect("all statuses of a gateway response are valid");
    // A gateway caches by path only, and would return one user's answer to another.
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    let mut answer = (no_store, json_body(status, &response.body)).into_response();
    for (name, value) in response.headers {
        // A slug may contain characters that a header cannot hold; then only this header is missing.
        if let Ok(value) = HeaderValue::try_from(value) {
            answer.headers_mut().insert(name, value);
        }
    }
    Reply { answer, result: response.result }
}
