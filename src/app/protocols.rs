//! The wiring of what is asked by other protocols than our own.

use super::Shared;
use crate::{
    api::{
        AdminApi, AuthZen, Beside, ExtAuthz, ForwardAuth, Gateways, Hosts, Ofrep, Protocols,
        flagd::Flagd,
    },
    check::Checks,
    config::{Config, Protocol},
    ingest::Deliveries,
    server::http::PublicUrl,
};
use std::{net::SocketAddr, sync::Arc};

impl Shared {
    /// What the settings name: on the internal listener and beside our own gRPC.
    pub(super) fn protocols(
        &self,
        config: &mut Config,
        internal: SocketAddr,
        checks: &Arc<Checks>,
        deliveries: &Arc<Deliveries>,
    ) -> (Arc<Protocols>, Beside) {
        let sessions = config.sessions.take();
        let gateways = Arc::new(Gateways::new(checks.clone(), sessions));
        let has_tls = config.locks.internal.is_some();
        let public_url = config.public_url.clone().or_else(|| PublicUrl::of(internal, has_tls));
        let callers = config.locks.callers.clone();
        let hosts = Hosts::of(internal, callers.is_some(), public_url.as_ref());
        let mut inside = Protocols::none(callers, hosts, self.metrics.clone());
        let admin = config.admin.then(|| AdminApi::new(deliveries.clone()));
        let mut beside = Beside { admin, ..Beside::default() };
        let flagd = || Flagd::new(checks.clone(), self.draining.clone(), self.metrics.clone());
        for protocol in &config.protocols {
            match protocol {
                Protocol::Flagd => beside.flagd.get_or_insert_with(flagd).evaluation = true,
                Protocol::FlagdSync => beside.flagd.get_or_insert_with(flagd).sync = true,
                Protocol::Ofrep => {
                    let (cors, draining) = (config.ofrep_cors.clone(), self.draining.clone());
                    inside.ofrep = Some(Ofrep::new(checks.clone(), cors, draining));
                }
                Protocol::Authzen => {
                    let public_url = public_url.clone();
                    inside.authzen = Some(AuthZen::new(checks.clone(), public_url));
                }
                Protocol::ForwardAuth => {
                    inside.forward_auth = Some(ForwardAuth::new(gateways.clone()));
                }
                Protocol::ExtAuthz => {
                    let (trusted, metrics) = (config.trusted_claims.clone(), self.metrics.clone());
                    beside.ext_authz = Some(ExtAuthz::new(gateways.clone(), trusted, metrics));
                }
            }
        }
        (Arc::new(inside), beside)
    }
}
