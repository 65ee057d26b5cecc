//! Requests as gateways forward them, and the user that the service reports as signed in.

use crate::support::service::{Replica, plain_http};
use entitlements::api::envoy::{
    config::core::v3::{HeaderMap, HeaderValue, HeaderValueOption, Metadata},
    service::auth::v3::{
        AttributeContext, CheckRequest,
        attribute_context::{HttpRequest, Request as EnvoyRequest},
        authorization_client::AuthorizationClient,
        check_response::HttpResponse,
    },
};
use prost_types::{ListValue, Struct, Value as ProtoValue, value::Kind};
use serde_json::{Map, Value, json};
use tonic::Code;

/// The credentials of a request: each is one header field.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub authorization: Vec<String>,
    pub cookies: Vec<String>,
}

/// The user and the organization (empty if none), or the reason why no user is signed in.
pub type SignedIn = Result<(String, String), String>;

impl Request {
    pub fn of(authorization: &[&str], cookies: &[&str]) -> Self {
        let all = |fields: &[&str]| fields.iter().map(|&field| field.to_owned()).collect();
        Self { authorization: all(authorization), cookies: all(cookies) }
    }

    fn fields(&self) -> impl Iterator<Item = (&'static str, Vec<u8>)> {
        let bytes = |text: &String| text.chars().map(|c| u8::try_from(c).unwrap()).collect();
        let authorization =
            self.authorization.iter().map(move |text| ("authorization", bytes(text)));
        authorization.chain(self.cookies.iter().map(move |text| ("cookie", bytes(text))))
    }

    /// Asks as nginx, Caddy and Traefik do.
    pub async fn by_http(&self, replica: &Replica) -> SignedIn {
        let url = format!("http://{}/auth/basic_reports", replica.bound.api);
        let mut request = plain_http().get(url);
        for (name, value) in self.fields() {
            request = request.header(name, value);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let header = |name: &str| headers.get(name).unwrap().to_str().unwrap().to_owned();
        let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        match status {
            200 | 403 => Ok((header("x-entitlement-user"), header("x-entitlement-organization"))),
            _ => Err(format!("{status}: {}", body["error"].as_str().unwrap())),
        }
    }

    /// Asks as Envoy does: with one text for each header name, or with `encode_raw_headers`.
    pub async fn by_envoy(&self, replica: &Replica, is_raw: bool) -> SignedIn {
        let mut http = HttpRequest::default();
        if is_raw {
            let header = |(name, raw_value): (&str, Vec<u8>)| HeaderValue {
                key: name.into(),
                raw_value,
                ..HeaderValue::default()
            };
            http.header_map = Some(HeaderMap { headers: self.fields().map(header).collect() });
        } else {
            for (name, all, separator) in
                [("authorization", &self.authorization, ","), ("cookie", &self.cookies, "; ")]
            {
                if !all.is_empty() {
                    http.headers.insert(name.into(), all.join(separator));
                }
            }
        }
        let request = Some(EnvoyRequest { http: Some(http) });
        check(replica, AttributeContext { request, ..AttributeContext::default() }).await
    }
}

/// Asks as Envoy does after `jwt_authn` has put the claims into the metadata, and a header.
pub async fn by_metadata(replica: &Replica, claims: &Value, header: Option<&Value>) -> SignedIn {
    let mut found = json!({ "clerk": claims });
    if let Some(header) = header {
        found["clerk_header"] = header.clone();
    }
    let found = structure(found.as_object().unwrap());
    let filter_metadata = [("envoy.filters.http.jwt_authn".to_owned(), found)].into();
    let metadata_context = Some(Metadata { filter_metadata });
    check(replica, AttributeContext { metadata_context, ..AttributeContext::default() }).await
}

async fn check(replica: &Replica, attributes: AttributeContext) -> SignedIn {
    let context_extensions = [("feature".to_owned(), "basic_reports".to_owned())].into();
    let attributes = Some(AttributeContext { context_extensions, ..attributes });
    let mut client = AuthorizationClient::new(replica.channel.clone());
    let response = client.check(CheckRequest { attributes }).await;
    let response = response.map_err(|status| format!("503: {}", status.message()))?.into_inner();
    let headers = match response.http_response.unwrap() {
        HttpResponse::OkResponse(ok) => ok.headers,
        HttpResponse::DeniedResponse(denied) => {
            if response.status.unwrap().code == Code::Unauthenticated as i32 {
                let body: Value = serde_json::from_str(&denied.body).unwrap();
                return Err(format!("401: {}", body["error"].as_str().unwrap()));
            }
            denied.headers
        }
    };
    Ok((named(&headers, "x-entitlement-user"), named(&headers, "x-entitlement-organization")))
}

fn named(headers: &[HeaderValueOption], name: &str) -> String {
    let mut all = headers.iter().filter_map(|option| option.header.as_ref());
    all.find(|header| header.key == name).map(|header| header.value.clone()).unwrap_or_default()
}

fn structure(object: &Map<String, Value>) -> Struct {
    Struct { fields: object.iter().map(|(name, of)| (name.clone(), value(of))).collect() }
}

fn value(of: &Value) -> ProtoValue {
    let kind = match of {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(all) => Kind::ListValue(ListValue { values: all.iter().map(value).collect() }),
        Value::Object(object) => Kind::StructValue(structure(object)),
    };
    ProtoValue { kind: Some(kind) }
}
