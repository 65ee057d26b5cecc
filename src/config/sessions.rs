//! Who is signed in, for the protocols of gateways.

use super::{Protocol, parse::switch};
use crate::clerk::{Instance, Keys, Rules, Sessions, TrustedClaims};
use anyhow::{Context, bail};
use clap::{ArgAction, Args};

/// How session tokens are verified.
#[derive(Debug, Clone, Args)]
pub struct SessionSettings {
    /// Public key (PEM) that session tokens are verified with: "JWKS Public Key" in Clerk's dashboard
    #[arg(long, env, value_name = "PEM", allow_hyphen_values = true)]
    pub clerk_jwt_key: Option<String>,

    /// Where such keys are fetched instead: Clerk's Frontend API, then `/.well-known/jwks.json`
    #[arg(long, env, value_name = "URL")]
    pub clerk_jwks_url: Option<String>,

    /// Publishable key of the instance, `pk_…`: with it, cookies are read exactly as Clerk's SDK reads them
    #[arg(long, env, value_name = "KEY")]
    pub clerk_publishable_key: Option<String>,

    /// Origins that session tokens may have been made for (`azp`), separated by commas [default: any]
    #[arg(long, env, value_name = "ORIGIN", value_delimiter = ',')]
    pub clerk_authorized_parties: Vec<String>,

    /// Accept session tokens without `azp` although `CLERK_AUTHORIZED_PARTIES` is set: native apps have no origin
    #[arg(long, env, value_name = "BOOL", value_parser = switch, action = ArgAction::Set, num_args = 0..=1)]
    #[arg(
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true
    )]
    pub clerk_allow_missing_azp: bool,

    /// Who must have issued session tokens (`iss`): the URL of Clerk's Frontend API; several, separated by commas, for
    /// satellite domains [default: whoever has the key]
    #[arg(long, env, value_name = "URL", value_delimiter = ',')]
    pub clerk_issuer: Vec<String>,

    /// Believe the claims that Envoy's `jwt_authn` filter leaves under this `payload_in_metadata`; only for ext-authz
    #[arg(long, env, value_name = "NAME")]
    pub ext_authz_jwt_payload: Option<String>,

    /// Where `jwt_authn` leaves the token's header, its `header_in_metadata`: the header tells session tokens from
    /// those of JWT templates and machines [default: claims without `sid` are refused]
    #[arg(long, env, value_name = "NAME")]
    pub ext_authz_jwt_header: Option<String>,
}

impl SessionSettings {
    /// Verifies session tokens, if there are keys.
    pub fn sessions(&self) -> anyhow::Result<Option<Sessions>> {
        let instance = given(self.clerk_publishable_key.as_ref()).map(Instance::of).transpose();
        let instance = instance.context("CLERK_PUBLISHABLE_KEY")?;
        let keys = match (given(self.clerk_jwt_key.as_ref()), given(self.clerk_jwks_url.as_ref())) {
            (Some(pem), _) => Keys::given(pem).context("CLERK_JWT_KEY")?,
            (None, Some(url)) => Keys::published(url).context("CLERK_JWKS_URL")?,
            (None, None) => return Ok(None),
        };
        Ok(Some(Sessions::new(keys, self.rules()).of_instance(instance)))
    }

    /// The claims of `jwt_authn` that are believed.
    #[must_use]
    pub fn trusted_claims(&self) -> Option<TrustedClaims> {
        let payload = given(self.ext_authz_jwt_payload.as_ref())?.to_owned();
        let header = given(self.ext_authz_jwt_header.as_ref()).map(str::to_owned);
        Some(TrustedClaims { payload, header, rules: self.rules() })
    }

    fn rules(&self) -> Rules {
        Rules {
            parties: all(&self.clerk_authorized_parties),
            azp_may_be_missing: self.clerk_allow_missing_azp,
            issuers: all(&self.clerk_issuer),
        }
    }

    /// Whether a protocol can know who asks.
    #[must_use]
    pub fn suffice_for(&self, protocol: Protocol) -> bool {
        let has_keys =
            given(self.clerk_jwt_key.as_ref()).or(given(self.clerk_jwks_url.as_ref())).is_some();
        match protocol {
            Protocol::Flagd | Protocol::FlagdSync | Protocol::Ofrep | Protocol::Authzen => true,
            Protocol::ForwardAuth => has_keys,
            Protocol::ExtAuthz => has_keys || given(self.ext_authz_jwt_payload.as_ref()).is_some(),
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

/// The entries that say something.
fn all(entries: &[String]) -> Vec<String> {
    let entries = entries.iter().map(|entry| entry.trim().to_owned());
    entries.filter(|entry| !entry.is_empty()).collect()
}
