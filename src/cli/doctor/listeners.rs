//! Checks whether the addresses of the listeners are free, or in use by this service itself.

use super::finding::{Finding, REQUEST_TIMEOUT};
use crate::{cli::probe, config::Settings};
use std::{
    io::{Error, ErrorKind},
    net::SocketAddr,
};
use tokio::net::TcpListener;
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

pub(super) async fn all(settings: &Settings) -> Vec<Finding> {
    let all = [
        ("API listener", settings.api_listen),
        ("webhook listener", settings.webhook_listen),
        ("operator listener", settings.operator_listen),
    ];
    let mut bound = Vec::new();
    for (_, address) in all {
        bound.push(TcpListener::bind(address).await);
    }
    let taken: Vec<_> = bound.iter().map(|bound| is_taken(bound.as_ref().err())).collect();
    // Closes the sockets before `is_ours` connects to the addresses: it must not connect to them.
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
            Finding::ok(what, format!("{at} is in use, and this service is running there"))
        }
        Some(error) if is_taken(Some(&error)) => {
            let detail = format!("{at} is in use by another process");
            Finding::fail(what, detail, "stop what listens there, or choose another address")
        }
        Some(error) if error.kind() == ErrorKind::PermissionDenied => {
            let detail = format!("this process may not listen on {at}");
            Finding::fail(what, detail, "choose a port above 1023, or grant CAP_NET_BIND_SERVICE")
        }
        Some(error) => {
            let detail = format!("cannot listen on {at}: {error}");
            Finding::fail(what, detail, "choose an address that this machine has")
        }
    }
}

fn is_taken(error: Option<&Error>) -> bool {
    error.is_some_and(|error| error.kind() == ErrorKind::AddrInUse)
}

/// Whether a running service answers on one of the addresses.
async fn is_ours(settings: &Settings) -> bool {
    let listeners = &settings.listeners;
    says_alive(probe::url(settings.webhook_listen, listeners.webhook_tls_cert.is_some())).await
        || says_alive(probe::url(settings.operator_listen, listeners.operator_tls_cert.is_some()))
            .await
        || (listeners.api_tls_cert.is_none()
            && reports_health(probe::url(settings.api_listen, false)).await)
}

async fn says_alive(service: String) -> bool {
    match probe::ask(format!("{service}/livez"), REQUEST_TIMEOUT).await {
        Ok(answer) => answer.text().await.is_ok_and(|text| text == "alive\n"),
        Err(_) => false,
    }
}

async fn reports_health(service: String) -> bool {
    let Ok(endpoint) = Endpoint::from_shared(service) else { return false };
    let endpoint = endpoint.connect_timeout(REQUEST_TIMEOUT).timeout(REQUEST_TIMEOUT);
    let mut client = HealthClient::new(endpoint.connect_lazy());
    let service = "entitlements.v1.Entitlements".into();
    client.check(HealthCheckRequest { service }).await.is_ok()
}
