//! Warnings at start about settings that are valid and risky.

use super::listener_security::ListenerSecurity;
use crate::{
    config::Config,
    domain::loopback::{is_loopback, is_this_machine},
};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::{net::SocketAddr, path::Path};

/// Logs each risk of these settings.
pub(super) fn log(config: &Config, security: &ListenerSecurity) {
    several_secrets(config.signing_secrets.len());
    unverified_database(&config.database);
    open_checks(config.api, security);
    open_metrics(config.operator);
    keys(config, security);
}

fn several_secrets(count: usize) {
    if count > 1 {
        tracing::info!(
            secrets = count,
            "CLERK_WEBHOOK_SIGNING_SECRET has several secrets: remove the old ones as soon as Clerk signs with the \
             new one, because each of them is enough to forge deliveries"
        );
    }
}

/// Warns if an attacker on the network between could read or change the connection to Postgres.
fn unverified_database(database: &PgConnectOptions) {
    let host = database.get_host();
    let is_socket = database.get_socket().is_some() || Path::new(host).is_absolute();
    let is_verified =
        matches!(database.get_ssl_mode(), PgSslMode::VerifyFull | PgSslMode::VerifyCa);
    if !is_socket && !is_this_machine(host) && !is_verified {
        tracing::warn!(
            "DATABASE_URL does not verify the certificate of {host}: an attacker on the network can read and \
             change all data, including the password; add sslmode=verify-full (and sslrootcert=FILE for a private \
             authority)"
        );
    }
}

/// Warns of an API listener that answers checks of every machine.
fn open_checks(address: SocketAddr, security: &ListenerSecurity) {
    if security.callers.is_none() && !is_loopback(address.ip()) {
        tracing::warn!(
            %address,
            "ENTITLEMENTS_API_LISTEN {address} can be reached from other machines, and answers checks without authentication: let \
             only your own services reach it"
        );
    }
}

fn open_metrics(operator: SocketAddr) {
    if !is_loopback(operator.ip()) {
        tracing::warn!(
            %operator,
            "ENTITLEMENTS_OPERATOR_LISTEN {operator} can be reached from other machines, and serves metrics without \
             authentication: let only your monitoring reach it"
        );
    }
}

/// Warns of a file without keys, and of keys that cross the network in plain text.
fn keys(config: &Config, security: &ListenerSecurity) {
    let Some(callers) = &security.callers else { return };
    if !callers.has_keys() {
        if config.listeners.client_ca.is_none() {
            tracing::warn!(
                "ENTITLEMENTS_CALLERS has no keys yet, so every call is rejected: `entitlements keys create` makes a key"
            );
        }
        return;
    }
    if security.api.is_none() && !is_loopback(config.api.ip()) {
        tracing::warn!(
            "API keys cross the network in plain text: set ENTITLEMENTS_API_TLS_CERT and ENTITLEMENTS_API_TLS_KEY, \
             unless a proxy or mesh encrypts the connections"
        );
    }
}
