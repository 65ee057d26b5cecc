//! Whether the listeners' addresses are free, or taken by this service itself.

use super::finding::Finding;
use crate::{cli::probe, config::Settings};
use std::{
    io::{Error, ErrorKind},
    net::SocketAddr,
    time::Duration,
};
use tokio::net::TcpListener;
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// How long whoever has taken an address may take to say who it is.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn all(settings: &Settings) -> Vec<Finding> {
    let all = [
        ("gRPC listener", settings.grpc_listen),
        ("HTTP listener", settings.http_listen),
        ("internal listener", settings.internal_listen),
    ];
    let mut bound = Vec::new();
    for (_, address) in all {
        bound.push(TcpListener::bind(address).await);
    }
    // Two of ours at one address would not be told from others while they are bound here.
    let taken: Vec<_> = bound.iter().map(|bound| is_taken(bound.as_ref().err())).collect();
    let bound: Vec<_> = bound.into_iter().map(Result::err).collect();
    let is_running = taken.contains(&true) && is_ours(settings).await;
    all.into_iter()
        .zip(bound)
        .map(|((what, address), error)| judge(what, address, error, is_running))
        .collect()
}

fn judge(what: &'static str, at: SocketAddr, error: Option<Error>, is_running: bool) -> Finding {
    match error {
        None => Finding::ok(what, format!("{at} is free")),
        Some(error) if is_taken(Some(&error)) && is_running => {
            Finding::ok(what, format!("{at} is taken, and this service is running there"))
        }
        Some(error) if is_taken(Some(&error)) => {
            let seen = format!("{at} is taken by something else");
            Finding::fail(what, seen, "stop what listens there, or choose another address")
        }
        Some(error) if error.kind() == ErrorKind::PermissionDenied => {
            let seen = format!("{at} may not be listened on");
            Finding::fail(what, seen, "choose a port above 1023, or give the process the right")
        }
        Some(error) => {
            let seen = format!("cannot listen on {at}: {error}");
            Finding::fail(what, seen, "choose an address that this machine has")
        }
    }
}

fn is_taken(error: Option<&Error>) -> bool {
    error.is_some_and(|error| error.kind() == ErrorKind::AddrInUse)
}

/// Whether a running service answers at one of the addresses.
async fn is_ours(settings: &Settings) -> bool {
    let doors = &settings.doors;
    says_alive(probe::url(settings.http_listen, doors.http_tls_cert.is_some())).await
        || says_alive(probe::url(settings.internal_listen, doors.internal_tls_cert.is_some())).await
        || (doors.grpc_tls_cert.is_none()
            && tells_health(probe::url(settings.grpc_listen, false)).await)
}

async fn says_alive(service: String) -> bool {
    match probe::ask(format!("{service}/livez"), PATIENCE).await {
        Ok(answer) => answer.text().await.is_ok_and(|text| text == "alive\n"),
        Err(_) => false,
    }
}

async fn tells_health(service: String) -> bool {
    let Ok(endpoint) = Endpoint::from_shared(service) else { return false };
    let endpoint = endpoint.connect_timeout(PATIENCE).timeout(PATIENCE);
    let mut client = HealthClient::new(endpoint.connect_lazy());
    let service = "entitlements.v1.Entitlements".into();
    client.check(HealthCheckRequest { service }).await.is_ok()
}
