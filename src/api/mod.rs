//! The protocols, one file or folder each: a protocol parses a request, asks the evaluator and renders the answer.

mod admin;
mod api_listener;
mod auth_layer;
mod authzen;
mod connect;
mod entitlements;
mod faults;
pub mod flagd;
mod gateway;
mod health;
mod hosts;
mod http_protocols;
mod ofrep;
mod openfeature;
mod overrides;
mod probes;
mod proto;
mod proto_struct;
mod routes;
mod scopes;
mod support;
mod webhook;

pub use admin::AdminApi;
pub use api_listener::{Api, GrpcServices};
pub use auth_layer::AuthLayer;
pub use authzen::AuthZen;
pub use connect::Connect;
pub use entitlements::EntitlementsApi;
pub use gateway::{ExtAuthz, ForwardAuth, GatewayAuthorizer, HEADERS};
pub use health::{health, watch as watch_health};
pub use hosts::Hosts;
pub use http_protocols::Protocols;
pub use ofrep::Ofrep;
pub use overrides::OverridesApi;
pub use probes::ProbeState;
pub use proto::{envoy, pb};
pub use routes::{serve_operators, serve_webhooks};
pub use support::{SupportApi, preview_response};
pub use webhook::Webhooks;

use bytes::Bytes;
use envoy::service::auth::v3::authorization_server::AuthorizationServer;
use flagd::Flagd;
use futures_util::future::Either;
use http::{Request, Response};
use pb::entitlements_server::{EntitlementsServer, SERVICE_NAME};
use std::{
    convert::Infallible,
    error::Error,
    pin::Pin,
    task::{Context, Poll},
};
use tonic::{body::Body, service::Routes};
use tonic_health::pb::health_server::{Health, HealthServer};
use tower_service::Service;

/// An error of any kind.
type BoxError = Box<dyn Error + Send + Sync>;

/// The largest request, in bytes: a full `CheckFeatures` with ids of the maximum length fits.
const LARGEST_REQUEST: usize = 64 * 1024;
/// The largest request of Envoy, in bytes: all headers of the original request and, if configured, part of its body.
const LARGEST_CHECK: usize = 256 * 1024;

/// The gRPC services beside Entitlements; none by default.
#[derive(Default)]
pub struct OptionalServices {
    /// Explanations of answers.
    pub support: Option<SupportApi>,
    /// `entitlements.v1.Overrides`.
    pub overrides: Option<OverridesApi>,
    /// The ledger of deliveries.
    pub admin: Option<AdminApi>,
    /// Envoy's external authorization.
    pub ext_authz: Option<ExtAuthz>,
    /// flagd's protocols.
    pub flagd: Option<Flagd>,
}

/// All gRPC services of a listener.
#[derive(Clone)]
pub struct Services {
    entitlements: EntitlementsServer<EntitlementsApi>,
    others: Routes,
}

impl Services {
    /// Combines the services, with reflection for all of them.
    pub fn new<H: Health>(
        api: EntitlementsApi,
        optional: OptionalServices,
        health: HealthServer<H>,
    ) -> Result<Self, BoxError> {
        let reflection = || {
            let builder = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(pb::DESCRIPTOR)
                .register_encoded_file_descriptor_set(envoy::DESCRIPTOR)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                // google.rpc.*, so that clients can print error details.
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET);
            optional.flagd.iter().fold(builder, |builder, flagd| flagd.describe(builder))
        };
        let mut others = Routes::new(health);
        if let Some(support) = optional.support {
            let support = pb::support_server::SupportServer::new(support);
            others = others.add_service(support.max_decoding_message_size(LARGEST_REQUEST));
        }
        if let Some(overrides) = optional.overrides {
            let overrides = pb::overrides_server::OverridesServer::new(overrides);
            others = others.add_service(overrides.max_decoding_message_size(LARGEST_REQUEST));
        }
        if let Some(admin) = optional.admin {
            let admin = pb::admin_server::AdminServer::new(admin);
            others = others.add_service(admin.max_decoding_message_size(LARGEST_REQUEST));
        }
        if let Some(ext_authz) = optional.ext_authz {
            let ext_authz = AuthorizationServer::new(ext_authz);
            others = others.add_service(ext_authz.max_decoding_message_size(LARGEST_CHECK));
        }
        let others = optional.flagd.iter().fold(others, |others, flagd| flagd.add_to(others));
        let others =
            others.add_service(reflection().build_v1()?).add_service(reflection().build_v1alpha()?);
        let entitlements = EntitlementsServer::new(api).max_decoding_message_size(LARGEST_REQUEST);
        Ok(Self { entitlements, others: others.prepare() })
    }
}

/// Calls of Entitlements bypass the router, which clones and boxes for each call. The boxed future of the others keeps
/// the future of a check small.
impl<B> Service<Request<B>> for Services
where
    B: hyper::body::Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<
        <EntitlementsServer<EntitlementsApi> as Service<Request<B>>>::Future,
        Pin<Box<<Routes as Service<Request<B>>>::Future>>,
    >;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(())) // both are always ready
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/')) {
            Some((SERVICE_NAME, _)) => Either::Left(self.entitlements.call(request)),
            _ => Either::Right(Box::pin(self.others.call(request))),
        }
    }
}
