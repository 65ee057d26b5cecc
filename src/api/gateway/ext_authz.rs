//! `envoy.service.auth.v3.Authorization`: asked by Envoy before it lets a request through.
//!
//! The route names the feature in its `context_extensions`. Who asks is known from the session token of the request,
//! verified here, or from the claims that Envoy's own `jwt_authn` filter has verified, where a setting trusts it.
//! What cannot be answered is a gRPC error, so that Envoy's `failure_mode_allow` and `status_on_error` decide.

use super::{Gateways, HEADERS, Passage, Route};
use crate::api::envoy::{
    config::core::v3::{HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction},
    google::rpc,
    service::auth::v3::{
        AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
        authorization_server::Authorization, check_response::HttpResponse,
    },
    r#type::v3::HttpStatus,
};
use crate::{
    clerk::{Credentials, Session, TrustedClaims, Unverified},
    telemetry::{Labels, Metrics},
};
use chrono::Utc;
use prost_types::{Struct, Value, value::Kind};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};
use std::sync::Arc;
use tonic::{Code, Request, Response, Status};

/// What Envoy's filter calls itself in the metadata.
const JWT_AUTHN: &str = "envoy.filters.http.jwt_authn";

/// Answers Envoy.
pub struct ExtAuthz {
    gateways: Arc<Gateways>,
    /// Which claims of `jwt_authn`'s metadata are believed, if any.
    trusted: Option<TrustedClaims>,
    metrics: Arc<Metrics>,
}

impl ExtAuthz {
    /// Answers what these gateways are told; believes the `trusted` claims of `jwt_authn`.
    #[must_use]
    pub fn new(
        gateways: Arc<Gateways>,
        trusted: Option<TrustedClaims>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { gateways, trusted, metrics }
    }

    async fn session(&self, attributes: &AttributeContext) -> Result<Session, Unverified> {
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
        self.gateways.session(&Credentials::of(raw.chain(plain))).await
    }

    /// Who is signed in by claims that `jwt_authn` has verified; nothing: it left none.
    fn trusted_session(
        &self,
        attributes: &AttributeContext,
    ) -> Option<Result<Session, Unverified>> {
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

fn unreadable() -> Unverified {
    Unverified::Refused("what `jwt_authn` left of it cannot be read".into())
}

fn structure<'s>(of: &'s Struct, name: &str) -> Option<&'s Struct> {
    match of.fields.get(name)?.kind.as_ref()? {
        Kind::StructValue(found) => Some(found),
        _ => None,
    }
}

fn read<T: DeserializeOwned>(of: &Struct) -> Option<T> {
    serde_json::from_value(Json::Object(object(of))).ok()
}

fn object(of: &Struct) -> Map<String, Json> {
    of.fields.iter().map(|(name, value)| (name.clone(), json(value))).collect()
}

fn json(value: &Value) -> Json {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::NumberValue(number)) => Json::from(*number),
        Some(Kind::StringValue(text)) => Json::from(&**text),
        Some(Kind::BoolValue(value)) => Json::from(*value),
        Some(Kind::StructValue(of)) => Json::Object(object(of)),
        Some(Kind::ListValue(list)) => list.values.iter().map(json).collect(),
    }
}

#[tonic::async_trait]
impl Authorization for ExtAuthz {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let attributes = request.into_inner().attributes.unwrap_or_default();
        let said = |name| attributes.context_extensions.get(name).map(String::as_str);
        let route = Route { feature: said("feature").unwrap_or_default(), denied: said("denied") };
        let passage = self.gateways.pass(self.session(&attributes).await, route).await;
        let labels = Labels([("protocol", "ext-authz"), ("result", passage.result)]);
        self.metrics.protocol_requests.get_or_create(&labels).inc();
        tell(passage).map(Response::new)
    }
}

fn tell(passage: Passage) -> Result<CheckResponse, Status> {
    let (code, http_response) = match passage.status {
        200 => (Code::Ok, HttpResponse::OkResponse(go_on(passage.headers))),
        503 => return Err(Status::unavailable(passage.body["error"].as_str().unwrap_or_default())),
        401 => (Code::Unauthenticated, HttpResponse::DeniedResponse(refuse(passage))),
        _ => (Code::PermissionDenied, HttpResponse::DeniedResponse(refuse(passage))),
    };
    let status = rpc::Status { code: code.into(), ..Default::default() };
    Ok(CheckResponse { status: Some(status), http_response: Some(http_response) })
}

/// What a client sends under our names is overwritten or removed.
fn go_on(headers: Vec<(&'static str, String)>) -> OkHttpResponse {
    let headers: Vec<_> = headers.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let is_set = |name: &&str| headers.iter().any(|(set, _)| set == name);
    let absent = HEADERS.into_iter().filter(|name| !is_set(name)).map(str::to_owned).collect();
    OkHttpResponse {
        headers: headers.into_iter().map(|(name, value)| header(name, value)).collect(),
        headers_to_remove: absent,
    }
}

fn refuse(passage: Passage) -> DeniedHttpResponse {
    let json = header("content-type", "application/json".into());
    let headers = passage.headers.into_iter().filter(|(_, value)| !value.is_empty());
    DeniedHttpResponse {
        status: Some(HttpStatus { code: i32::from(passage.status) }),
        headers: headers.map(|(name, value)| header(name, value)).chain([json]).collect(),
        body: format!("{}\n", passage.body),
    }
}

fn header(name: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.into(), value, ..HeaderValue::default() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
    }
}
