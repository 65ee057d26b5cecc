//! The gRPC face: the `Entitlements` and `Admin` services, health and reflection.

mod admin;
mod answer;
mod ask;
mod auth;
mod calls;
mod codec;
mod deferred;
mod entitlements;
mod ext_authz;
pub mod flagd;
mod guard;
mod health;
mod revocation;

pub use admin::AdminApi;
pub use auth::Door;
pub use calls::Calls;
pub use entitlements::Api;
pub use ext_authz::ExtAuthz;
pub use flagd::Flagd;
pub use health::{health, watch as watch_health};

use crate::net::{self, Listener, Peer};
use deferred::{Aside, Connection};
use envoy::service::auth::v3::authorization_server::AuthorizationServer;
use futures_util::future::Either;
use guard::Guard;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::rt::{TokioIo, TokioTimer};
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

/// What `proto/` compiles to.
#[expect(clippy::pedantic, reason = "generated")]
pub mod pb {
    tonic::include_proto!("entitlements.v1");

    /// The compiled `proto/`, for reflection.
    pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/entitlements.bin"));
}

/// What Envoy's part of `proto/` compiles to.
#[expect(clippy::pedantic, missing_docs, reason = "generated")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/envoy.rs"));
}

/// Envoy's external authorization.
pub mod envoy {
    pub use super::generated::{envoy::*, google};

    /// The compiled `proto/envoy/`, for reflection.
    pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envoy.bin"));
}

/// The most connections open at once.
const CONNECTIONS: usize = 10_000;
/// The largest request: a full `CheckFeatures` with the longest ids fits.
const LARGEST_REQUEST: usize = 64 * 1024;
/// The largest question of Envoy: all headers of a request, and the beginning of its body if it is told so.
const LARGEST_CHECK: usize = 256 * 1024;

/// How much of a request may arrive before it is read: the largest with its frame.
const WINDOW: u32 = 66 * 1024;

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

/// Answers the calls that the door lets in on this listener until `stop`, on connections that last for about `age`. The
/// limits are explicit, also where a library's default is the same: they are what a hostile peer meets.
pub async fn serve<S>(
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
    let guard = Guard::new(services, calls);
    let mut builder = http2::Builder::new(Aside);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(256)
        .max_local_error_reset_streams(1024)
        .max_pending_accept_reset_streams(20)
        .max_header_list_size(16 * 1024)
        // What may arrive before it is read: one of the largest requests, and some on one connection.
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(4 * WINDOW)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    let connect = |io: TokioIo<Peer>| {
        let guard = door.before(guard.clone(), io.inner());
        builder.serve_connection(io, guard)
    };
    let limits = net::Limits { connections: CONNECTIONS, age, unverified: None };
    net::serve(listener, limits, stop, connect, Connection).await;
}
