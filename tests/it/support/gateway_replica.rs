//! A replica for gateways, and the requests that gateways send to it.

use crate::{
    support::database::Db,
    support::http_client::{HttpAnswer, HttpClient},
    support::service::{ADA, GRACE, Replica, config},
    support::session_signer::Signer,
};
use entitlements::{
    api::envoy::{
        config::core::v3::Metadata,
        service::auth::v3::{
            AttributeContext, CheckRequest, CheckResponse,
            attribute_context::{HttpRequest, Request},
            authorization_client::AuthorizationClient,
        },
    },
    clerk::Rules,
};
use reqwest::Method;
use tonic::Status;

/// A replica with one verification key.
pub async fn replica(db: &Db, signer: &Signer) -> Replica {
    let mut with_key = config(db);
    let rules = Rules {
        parties: vec!["https://app.example.com".into()],
        issuers: vec!["https://clerk.example.com".into()],
        ..Rules::default()
    };
    with_key.sessions = Some(signer.sessions(rules));
    Replica::start_with(with_key).await
}

/// Asks as a gateway does about a request with this token.
pub async fn ask(client: &HttpClient, feature: &str, token: &str) -> HttpAnswer {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", &*bearer), ("x-entitlement-user", GRACE)];
    client.ask(Method::GET, &format!("/auth/{feature}"), &headers, "").await
}

/// Asks as Envoy does.
pub async fn check(
    replica: &Replica,
    token: &str,
    extensions: &[(&str, &str)],
    metadata: Option<Metadata>,
) -> Result<CheckResponse, Status> {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let mut headers = vec![("x-user-id", ADA), (":path", "/export")];
    let bearer = format!("Bearer {token}");
    if !token.is_empty() {
        headers.push(("authorization", &bearer));
    }
    let http = HttpRequest { headers: headers.iter().map(pair).collect(), header_map: None };
    let attributes = AttributeContext {
        request: Some(Request { http: Some(http) }),
        context_extensions: extensions.iter().map(pair).collect(),
        metadata_context: metadata,
    };
    let request = CheckRequest { attributes: Some(attributes) };
    let mut client = AuthorizationClient::new(replica.channel.clone());
    client.check(request).await.map(tonic::Response::into_inner)
}
