//! The routes of the HTTP listeners: webhooks and probes on the webhook listener; metrics and probes on the operator
//! listener.

use super::{Hosts, ProbeState, Webhooks, hosts::check_host, probes, webhook};
use crate::server::{
    http::{
        self,
        response::{not_allowed, not_found},
    },
    listener::{Listener, ListenerLimits, UnverifiedLimits},
};
use axum::{
    Router,
    middleware::map_request_with_state,
    routing::{get, post},
};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// The limits of the webhook listener. For unverified requests, they are 64 MiB of bodies; for one address, 16
/// connections and four bodies of maximum size.
const WEBHOOK_LIMITS: ListenerLimits = ListenerLimits {
    connections: 512,
    age: MAX_CONNECTION_AGE,
    unverified: Some(UnverifiedLimits {
        connections_per_address: 16,
        bytes_per_address: 4 * webhook::MAX_WEBHOOK_LEN,
        bytes: 64 * 1024 * 1024,
    }),
};
/// The limits of the operator listener.
const OPERATOR_LIMITS: ListenerLimits =
    ListenerLimits { connections: 512, age: MAX_CONNECTION_AGE, unverified: None };
/// The maximum age of a connection.
const MAX_CONNECTION_AGE: Duration = Duration::from_mins(10);

/// Serves webhooks from Clerk and probes on this listener until `stop`.
pub async fn serve_webhooks(
    listener: Listener,
    webhooks: Webhooks,
    probed: Arc<ProbeState>,
    stop: CancellationToken,
) {
    let router = Router::new().route("/webhooks/clerk", post(webhook::take));
    let router = router.with_state(Arc::new(webhooks)).merge(probes().with_state(probed));
    let router = router.fallback(not_found).method_not_allowed_fallback(not_allowed);
    http::serve(listener, WEBHOOK_LIMITS, router, stop).await;
}

/// Serves metrics and probes on this listener until `stop`, under these host names; `None`: under all.
pub async fn serve_operators(
    listener: Listener,
    probed: Arc<ProbeState>,
    hosts: Option<Hosts>,
    stop: CancellationToken,
) {
    let router = probes().route("/metrics", get(probes::metrics)).with_state(probed);
    let router = router.fallback(not_found).method_not_allowed_fallback(not_allowed);
    let router = match hosts {
        Some(hosts) => router.layer(map_request_with_state(hosts, check_host)),
        None => router,
    };
    http::serve(listener, OPERATOR_LIMITS, router, stop).await;
}

fn probes() -> Router<Arc<ProbeState>> {
    Router::new().route("/livez", get(probes::livez)).route("/readyz", get(probes::readyz))
}
