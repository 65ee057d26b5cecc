//! `envoy.service.auth.v3.Authorization`: Envoy calls it before it forwards a request.
//!
//! The route names the feature in its `context_extensions`. The user comes from the session token of the request, which
//! is verified here, or, if a setting trusts it, from the claims that Envoy's own `jwt_authn` filter has verified. If
//! the service cannot decide, it returns a gRPC error, so that Envoy's `failure_mode_allow` and `status_on_error`
//! apply.

use super::{GatewayAuthorizer, GatewayResponse, HEADERS, Route};
use crate::api::envoy::{
    config::core::v3::{HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction},
    google::rpc,
    service::auth::v3::{
        AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
        authorization_server::Authorization, check_response::HttpResponse,
    },
    r#type::v3::HttpStatus,
};
use crate::api::proto_struct;
use crate::{
    clerk::{Credentials, SessionError, SignedIn, TrustedClaims},
    telemetry::{Labels, Metrics},
};
use chrono::Utc;
use prost_types::{Struct, value::Kind};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use std::sync::Arc;
use tonic::{Code, Request, Response, Status};

/// The key of the `jwt_authn` filter in Envoy's metadata.
const JWT_AUTHN: &str = "envoy.filters.http.jwt_authn";

/// Implements Envoy's Authorization service.
pub struct ExtAuthz {
    authorizer: Arc<GatewayAuthorizer>,
    /// The claims in `jwt_authn`'s metadata that are trusted; `None`: none.
    trusted: Option<TrustedClaims>,
    metrics: Arc<Metrics>,
}

impl ExtAuthz {
    /// Creates the service; the `trusted` claims of `jwt_authn` need no session token.
    #[must_use]
    pub fn new(
        authorizer: Arc<GatewayAuthorizer>,
        trusted: Option<TrustedClaims>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { authorizer, trusted, metrics }
    }

    async fn session(&self, attributes: &AttributeContext) -> Result<SignedIn, SessionError> {
        if let Some(session) = self.trusted_session(attributes) {
            return session;
        }
        let http = attributes.request.as_ref().and_then(|request| request.http.as_ref());
        // Envoy fills one of the two: raw headers where `encode_raw_headers` is set.
        let raw = http.and_then(|http| http.header_map.as_ref());
        let raw = raw.into_iter().flat_map(|map| &map.headers).map(|header| {
            let raw = Some(&*header.raw_value).filter(|raw| !raw.is_empty());
            (&*header.key, raw.unwrap_or(header.value.as_bytes()))
        });
        let plain = http.into_iter().flat_map(|http| &http.headers);
        let plain = plain.map(|(name, value)| (&**name, value.as_bytes()));
        self.authorizer.session(&Credentials::of(raw.chain(plain))).await
    }

    /// The session from claims that `jwt_authn` has verified; `None` if there are no such claims.
    fn trusted_session(
        &self,
        attributes: &AttributeContext,
    ) -> Option<Result<SignedIn, SessionError>> {
        let trusted = self.trusted.as_ref()?;
        let metadata = attributes.metadata_context.as_ref()?;
        let found = metadata.filter_metadata.get(JWT_AUTHN)?;
        let claims = structure(found, &trusted.payload)?;
        let header = trusted.header.as_ref().and_then(|name| structure(found, name));
        let read = |of: &Struct| read(of).ok_or_else(unreadable);
        let header = header.map(|of| self::read(of).ok_or_else(unreadable)).transpose();
        Some(header.and_then(|header| trusted.admit(&read(claims)?, header.as_ref(), Utc::now())))
    }
}

fn unreadable() -> SessionError {
    SessionError::Refused("the claims in the metadata of `jwt_authn` cannot be parsed".into())
}

fn structure<'s>(of: &'s Struct, name: &str) -> Option<&'s Struct> {
    match of.fields.get(name)?.kind.as_ref()? {
        Kind::StructValue(found) => Some(found),
        _ => None,
    }
}

fn read<T: DeserializeOwned>(of: &Struct) -> Option<T> {
    serde_json::from_value(Json::Object(proto_struct::to_json(of))).ok()
}

#[tonic::async_trait]
impl Authorization for ExtAuthz {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let attributes = request.into_inner().attributes.unwrap_or_default();
        let extension = |name| attributes.context_extensions.get(name).map(String::as_str);
        let route = Route {
            feature: extension("feature").unwrap_or_default(),
            denied: extension("denied"),
        };
        let passed = self.authorizer.pass(self.session(&attributes).await, route).await;
        let result = passed.as_ref().map_or_else(|unavailable| unavailable.result, |r| r.result);
        let labels = Labels([("protocol", "ext-authz"), ("result", result)]);
        self.metrics.protocol_requests.get_or_create(&labels).inc();
        match passed {
            Ok(passed) => Ok(Response::new(response(passed))),
            Err(unavailable) => Err(Status::unavailable(unavailable.reason)),
        }
    }
}

fn response(response: GatewayResponse) -> CheckResponse {
    let (code, http_response) = match response.status {
        200 => (Code::Ok, HttpResponse::OkResponse(allow(response.headers))),
        401 => (Code::Unauthenticated, HttpResponse::DeniedResponse(deny(response))),
        _ => (Code::PermissionDenied, HttpResponse::DeniedResponse(deny(response))),
    };
    let status = rpc::Status { code: code.into(), ..Default::default() };
    CheckResponse { status: Some(status), http_response: Some(http_response) }
}

/// Lets the request pass. Headers of the client with our names are overwritten or removed.
fn allow(headers: Vec<(&'static str, String)>) -> OkHttpResponse {
    let headers: Vec<_> = headers.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let is_set = |name: &&str| headers.iter().any(|(set, _)| set == name);
    let names = HEADERS.into_iter().map(|(name, _)| name);
    let absent = names.filter(|name| !is_set(name)).map(str::to_owned).collect();
    OkHttpResponse {
        headers: headers.into_iter().map(|(name, value)| header(name, value)).collect(),
        headers_to_remove: absent,
    }
}

fn deny(response: GatewayResponse) -> DeniedHttpResponse {
    let json = header("content-type", "application/json".into());
    let headers = response.headers.into_iter().filter(|(_, value)| !value.is_empty());
    DeniedHttpResponse {
        status: Some(HttpStatus { code: i32::from(response.status) }),
        headers: headers.map(|(name, value)| header(name, value)).chain([json]).collect(),
        body: format!("{}\n", response.body),
    }
}

fn header(name: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.into(), value, ..HeaderValue::default() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
    }
}
