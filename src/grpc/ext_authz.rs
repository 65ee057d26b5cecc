//! `envoy.service.auth.v3.Authorization`: asked by Envoy before it lets a request through.
//!
//! The route names the feature in its `context_extensions`. Who asks is known from the session token of the request,
//! verified here, or from the claims that Envoy's own `jwt_authn` filter has verified, where a setting trusts it.
//! What cannot be answered is a gRPC error, so that Envoy's `failure_mode_allow` and `status_on_error` decide.

use super::envoy::{
    config::core::v3::{HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction},
    google::rpc,
    service::auth::v3::{
        AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
        authorization_server::Authorization, check_response::HttpResponse,
    },
    r#type::v3::HttpStatus,
};
use crate::{
    clerk::{Claims, Organization, Session, Unverified},
    gateways::{Credentials, Gateways, HEADERS, Passage, Route},
    telemetry::{Labels, Metrics},
};
use prost_types::{Struct, Value, value::Kind};
use std::sync::Arc;
use tonic::{Code, Request, Response, Status};

/// What Envoy's filter calls itself in the metadata.
const JWT_AUTHN: &str = "envoy.filters.http.jwt_authn";

/// Answers Envoy.
pub struct ExtAuthz {
    gateways: Arc<Gateways>,
    /// Where in its metadata `jwt_authn` leaves claims, if it is trusted.
    trusted: Option<String>,
    metrics: Arc<Metrics>,
}

impl ExtAuthz {
    /// Answers what these gateways are told; believes the claims that `jwt_authn` leaves under the name `trusted`.
    #[must_use]
    pub fn new(gateways: Arc<Gateways>, trusted: Option<String>, metrics: Arc<Metrics>) -> Self {
        Self { gateways, trusted, metrics }
    }

    async fn session(&self, attributes: &AttributeContext) -> Result<Session, Unverified> {
        if let Some(claims) = self.trusted_claims(attributes) {
            return Session::of(&claims);
        }
        let http = attributes.request.as_ref().and_then(|request| request.http.as_ref());
        let text = |name| http.and_then(|http| http.headers.get(name)).map(String::as_str);
        let (authorization, cookie) = (text("authorization"), text("cookie"));
        self.gateways.session(Credentials { authorization, cookie }).await
    }

    fn trusted_claims(&self, attributes: &AttributeContext) -> Option<Claims> {
        let metadata = attributes.metadata_context.as_ref()?;
        let found = metadata.filter_metadata.get(JWT_AUTHN)?;
        let Kind::StructValue(claims) = found.fields.get(self.trusted.as_ref()?)?.kind.as_ref()?
        else {
            return None;
        };
        let organization = claims.fields.get("o").and_then(|o| match &o.kind {
            Some(Kind::StructValue(o)) => Some(Organization { id: text(o, "id") }),
            _ => None,
        });
        Some(Claims {
            sub: text(claims, "sub").unwrap_or_default(),
            azp: text(claims, "azp"),
            sts: text(claims, "sts"),
            o: organization,
            org_id: text(claims, "org_id"),
        })
    }
}

fn text(claims: &Struct, name: &str) -> Option<String> {
    match claims.fields.get(name) {
        Some(Value { kind: Some(Kind::StringValue(text)) }) => Some(text.clone()),
        _ => None,
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
        header: Some(HeaderValue { key: name.into(), value }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
    }
}
