//! The gRPC face: the `Entitlements` and `Admin` services, health and reflection.

mod admin;
mod answer;
mod ask;
mod deferred;
mod entitlements;
mod guard;
mod health;

pub use admin::AdminApi;
pub use entitlements::Api;
pub use health::{set as set_health, watch as watch_health};

use crate::net;
use deferred::{Aside, Connection};
use guard::Guard;
use hyper::server::conn::http2;
use hyper_util::rt::TokioTimer;
use std::{error::Error, time::Duration};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};

/// What `proto/` compiles to.
#[expect(clippy::pedantic, reason = "generated")]
pub mod pb {
    tonic::include_proto!("entitlements.v1");

    /// The compiled `proto/`, for reflection.
    pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/entitlements.bin"));
}

/// The most connections open at once.
const CONNECTIONS: usize = 10_000;
/// The largest request: a full `CheckFeatures` with the longest ids fits.
const LARGEST_REQUEST: usize = 64 * 1024;

/// Puts the services together: what a listener serves.
pub fn routes<H: Health>(
    api: Api,
    admin: Option<AdminApi>,
    health: HealthServer<H>,
) -> Result<Routes, Box<dyn Error + Send + Sync>> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTOR)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // google.rpc.*: so that clients can print error details
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let entitlements = pb::entitlements_server::EntitlementsServer::new(api);
    let mut routes = Routes::new(entitlements.max_decoding_message_size(LARGEST_REQUEST));
    if let Some(admin) = admin {
        let admin = pb::admin_server::AdminServer::new(admin);
        routes = routes.add_service(admin.max_decoding_message_size(LARGEST_REQUEST));
    }
    Ok(routes
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .prepare())
}

/// Answers calls on this listener until `stop`. The limits are explicit, also where a library's default is
/// the same: they are what a hostile peer meets.
pub async fn serve(listener: TcpListener, routes: Routes, stop: CancellationToken) {
    let guard = Guard::new(routes);
    let mut builder = http2::Builder::new(Aside);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(256)
        .max_local_error_reset_streams(1024)
        .max_pending_accept_reset_streams(20)
        .max_header_list_size(16 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10));
    let connect = |io| builder.serve_connection(io, guard.clone());
    net::serve(listener, CONNECTIONS, stop, connect, Connection).await;
}
