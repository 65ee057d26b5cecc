//! Wiring of the configured protocols, and of the services Support, Overrides and Admin.

use super::SharedState;
use crate::{
    api::{
        AdminApi, AuthZen, ExtAuthz, ForwardAuth, GatewayAuthorizer, Hosts, Ofrep,
        OptionalServices, OverridesApi, Protocols, SupportApi, flagd::Flagd,
    },
    check::{Evaluator, Explainer, OverrideEditor, SubjectReports},
    clerk::SessionVerifier,
    config::{Config, Protocol},
    domain::PublicUrl,
    ingest::Deliveries,
    server::http::Cors,
};
use std::{net::SocketAddr, sync::Arc};

impl SharedState {
    /// Builds the protocols of the API listener, and its optional gRPC services.
    pub(super) fn protocols(
        &self,
        config: &Config,
        api: SocketAddr,
        sessions: Option<SessionVerifier>,
        checks: &Arc<Evaluator>,
        deliveries: &Arc<Deliveries>,
    ) -> (Protocols, OptionalServices) {
        let authorizer = Arc::new(GatewayAuthorizer::new(checks.clone(), sessions));
        let has_tls = self.security.api.is_some();
        let public_url = config.public_url.clone().or_else(|| PublicUrl::of(api, has_tls));
        let (callers, hosts) = (self.security.callers.clone(), Hosts::of(api, public_url.as_ref()));
        let mut protocols = Protocols::none(callers, hosts, self.metrics());
        let mut optional = self.optional_services(config, deliveries);
        let flagd = || Flagd::new(checks.clone(), self.draining.clone(), self.metrics());
        for protocol in &config.protocols {
            match protocol {
                Protocol::Flagd => optional.flagd.get_or_insert_with(flagd).evaluation = true,
                Protocol::FlagdSync => optional.flagd.get_or_insert_with(flagd).sync = true,
                Protocol::Ofrep => {
                    let cors = Cors::new(config.ofrep_cors.clone());
                    let draining = self.draining.clone();
                    protocols.ofrep = Some(Ofrep::new(checks.clone(), cors, draining));
                }
                Protocol::Authzen => {
                    protocols.authzen = Some(AuthZen::new(checks.clone(), public_url.clone()));
                }
                Protocol::ForwardAuth => {
                    protocols.forward_auth = Some(ForwardAuth::new(authorizer.clone()));
                }
                Protocol::Connect => protocols.enable_connect(),
                Protocol::None => {}
                Protocol::ExtAuthz => {
                    let (trusted, metrics) = (config.trusted_claims.clone(), self.metrics());
                    optional.ext_authz = Some(ExtAuthz::new(authorizer.clone(), trusted, metrics));
                }
            }
        }
        (protocols, optional)
    }

    /// The services for operators and support, if they are to be served.
    fn optional_services(&self, config: &Config, deliveries: &Arc<Deliveries>) -> OptionalServices {
        let admin = config.admin;
        OptionalServices {
            support: admin.then(|| self.support()),
            overrides: admin.then(|| OverridesApi::new(self.override_editor(config))),
            admin: admin.then(|| AdminApi::new(deliveries.clone())),
            ..OptionalServices::default()
        }
    }

    fn support(&self) -> SupportApi {
        let reports = SubjectReports::new(self.store.clone(), self.accounts.clone());
        SupportApi::new(Explainer::new(self.store.clone()), reports)
    }

    fn override_editor(&self, config: &Config) -> OverrideEditor {
        OverrideEditor::new(self.store.clone(), self.accounts.clone(), config.overrides_longest)
    }
}
