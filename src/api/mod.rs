//! One file or folder a protocol: each parses a request, asks the evaluator, and renders the answer.

mod admin;
mod auth_layer;
mod authzen;
mod entitlements;
pub mod flagd;
mod gateway;
mod health;
mod hosts;
mod http_protocols;
mod ofrep;
mod probes;
mod proto;
mod routes;
mod scopes;
mod webhook;

pub use admin::AdminApi;
pub use auth_layer::Door;
pub use authzen::AuthZen;
pub use entitlements::Api;
pub use gateway::{ExtAuthz, ForwardAuth, Gateways, HEADERS};
pub use health::{health, watch as watch_health};
pub use hosts::Hosts;
pub use http_protocols::Protocols;
pub use ofrep::Ofrep;
pub use probes::Probed;
pub use proto::{envoy, pb};
pub use routes::{Face, serve_http};
pub use webhook::Webhooks;

use crate::server::{
    grpc::{self, Calls},
    listener::Listener,
};
use envoy::service::auth::v3::authorization_server::AuthorizationServer;
use flagd::Flagd;
use futures_util::future::Either;
use http::{Request, Response};
use hyper::body::Incoming;
use pb::entitlements_server::{EntitlementsServer, SERVICE_NAME};
use std::{
    convert::Infallible,
    error::Error,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, service::Routes};
use tonic_health::pb::health_server::{Health, HealthServer};
use tower_service::Service;

/// The largest request: a full `CheckFeatures` with the longest ids fits.
const LARGEST_REQUEST: usize = 64 * 1024;
/// The largest question of Envoy: all headers of a request, and the beginning of its body if it is told so.
const LARGEST_CHECK: usize = 256 * 1024;

/// What is served beside the checks; by default nothing.
#[derive(Default)]
pub struct Beside {
    /// The ledger of deliveries.
    pub admin: Option<AdminApi>,
    /// Envoy's external authorization.
    pub ext_authz: Option<ExtAuthz>,
    /// flagd's protocols.
    pub flagd: Option<Flagd>,
}

/// What a listener serves.
#[derive(Clone)]
pub struct Services {
    entitlements: EntitlementsServer<Api>,
    others: Routes,
}

impl Services {
    /// Puts the services together.
    pub fn new<H: Health>(
        api: Api,
        beside: Beside,
        health: HealthServer<H>,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let reflection = || {
            let builder = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(pb::DESCRIPTOR)
                .register_encoded_file_descriptor_set(envoy::DESCRIPTOR)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                // google.rpc.*: so that clients can print error details
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET);
            beside.flagd.iter().fold(builder, |builder, flagd| flagd.describe(builder))
        };
        let mut others = Routes::new(health);
        if let Some(admin) = beside.admin {
            let admin = pb::admin_server::AdminServer::new(admin);
            others = others.add_service(admin.max_decoding_message_size(LARGEST_REQUEST));
        }
        if let Some(ext_authz) = beside.ext_authz {
            let ext_authz = AuthorizationServer::new(ext_authz);
            others = others.add_service(ext_authz.max_decoding_message_size(LARGEST_CHECK));
        }
        let others = beside.flagd.iter().fold(others, |others, flagd| flagd.add_to(others));
        let others =
            others.add_service(reflection().build_v1()?).add_service(reflection().build_v1alpha()?);
        let entitlements = EntitlementsServer::new(api).max_decoding_message_size(LARGEST_REQUEST);
        Ok(Self { entitlements, others: others.prepare() })
    }
}

/// The checks do not pass the router, which clones and boxes for each of them, nor carry the room that it takes.
impl Service<Request<Incoming>> for Services {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<
        <EntitlementsServer<Api> as Service<Request<Incoming>>>::Future,
        Pin<Box<<Routes as Service<Request<Incoming>>>::Future>>,
    >;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(())) // as both are, always
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        match request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/')) {
            Some((SERVICE_NAME, _)) => Either::Left(self.entitlements.call(request)),
            _ => Either::Right(Box::pin(self.others.call(request))),
        }
    }
}

/// Answers the calls that the door lets in on this listener until `stop`, on connections that last for about `age`.
pub async fn serve_grpc<S>(
    listener: Listener,
    door: Door,
    services: S,
    calls: Arc<Calls>,
    age: Duration,
    stop: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    grpc::serve(listener, services, calls, |guard, peer| door.before(guard, peer), age, stop).await;
}
