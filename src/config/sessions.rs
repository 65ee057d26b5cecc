//! Who is signed in, for the protocols of gateways.

use super::Protocol;
use crate::clerk::{Keys, Sessions};
use anyhow::{Context, bail};
use clap::Args;

/// How session tokens are verified.
#[derive(Debug, Clone, Args)]
pub struct SessionSettings {
    /// Public key (PEM) that session tokens are verified with: "JWKS Public Key" in Clerk's dashboard
    #[arg(long, env, value_name = "PEM", allow_hyphen_values = true)]
    pub clerk_jwt_key: Option<String>,

    /// Where such keys are fetched instead: Clerk's Frontend API, then `/.well-known/jwks.json`
    #[arg(long, env, value_name = "URL")]
    pub clerk_jwks_url: Option<String>,

    /// Origins that session tokens may have been made for (`azp`), separated by commas [default: any]
    #[arg(long, env, value_name = "ORIGIN", value_delimiter = ',')]
    pub clerk_authorized_parties: Vec<String>,

    /// Who must have issued session tokens (`iss`): the URL of Clerk's Frontend API [default: whoever has the key]
    #[arg(long, env, value_name = "URL")]
    pub clerk_issuer: Option<String>,

    /// Believe the claims that Envoy's `jwt_authn` filter leaves under this `payload_in_metadata`; only for ext-authz
    #[arg(long, env, value_name = "NAME")]
    pub ext_authz_jwt_payload: Option<String>,
}

impl SessionSettings {
    /// Verifies session tokens, if there are keys.
    pub fn sessions(&self) -> anyhow::Result<Option<Sessions>> {
        let keys = match (given(self.clerk_jwt_key.as_ref()), given(self.clerk_jwks_url.as_ref())) {
            (Some(pem), _) => Keys::given(pem).context("CLERK_JWT_KEY")?,
            (None, Some(url)) => Keys::published(url).context("CLERK_JWKS_URL")?,
            (None, None) => return Ok(None),
        };
        let parties = self.clerk_authorized_parties.iter().map(|party| party.trim().to_owned());
        let parties = parties.filter(|party| !party.is_empty()).collect();
        Ok(Some(Sessions::new(keys, parties, given(self.clerk_issuer.as_ref()))))
    }

    /// The name under which `jwt_authn` leaves claims that are believed.
    #[must_use]
    pub fn trusted_payload(&self) -> Option<String> {
        given(self.ext_authz_jwt_payload.as_ref()).map(str::to_owned)
    }

    /// Whether a protocol can know who asks.
    #[must_use]
    pub fn suffice_for(&self, protocol: Protocol) -> bool {
        let has_keys =
            given(self.clerk_jwt_key.as_ref()).or(given(self.clerk_jwks_url.as_ref())).is_some();
        match protocol {
            Protocol::Flagd | Protocol::FlagdSync | Protocol::Ofrep | Protocol::Authzen => true,
            Protocol::ForwardAuth => has_keys,
            Protocol::ExtAuthz => has_keys || self.trusted_payload().is_some(),
        }
    }

    /// An error if a protocol is to be served that could not let anybody pass.
    pub(super) fn check(&self, protocols: &[Protocol]) -> anyhow::Result<()> {
        match protocols.iter().find(|protocol| !self.suffice_for(**protocol)) {
            None => Ok(()),
            Some(_) => bail!(
                "PROTOCOLS names forward-auth or ext-authz, which verify Clerk's session tokens: set \
                 CLERK_JWT_KEY, or CLERK_JWKS_URL (or, for ext-authz behind jwt_authn, EXT_AUTHZ_JWT_PAYLOAD)"
            ),
        }
    }
}

/// A setting that says something.
fn given(setting: Option<&String>) -> Option<&str> {
    setting.map(|text| text.trim()).filter(|text| !text.is_empty())
}
