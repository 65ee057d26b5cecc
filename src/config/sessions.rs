//! Settings of the verification of session tokens, which the gateway protocols need.

use super::{Protocol, parse::switch};
use crate::clerk::{Instance, Rules, TrustedClaims};
use anyhow::{Context, bail};
use clap::{ArgAction, Args};

/// Verification of Clerk's session tokens.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Session tokens")]
pub struct SessionSettings {
    /// Public key (PEM) that verifies session tokens: "JWKS Public Key" in Clerk's dashboard
    #[arg(long, env, value_name = "PEM", allow_hyphen_values = true)]
    pub clerk_jwt_key: Option<String>,

    /// URL of the public keys, instead of `CLERK_JWT_KEY`: the URL of Clerk's Frontend API, followed by
    /// `/.well-known/jwks.json`
    #[arg(long, env, value_name = "URL")]
    pub clerk_jwks_url: Option<String>,

    /// Publishable key of the instance, `pk_…`: with it, cookies are chosen exactly as Clerk's SDK chooses them
    #[arg(long, env, value_name = "KEY")]
    pub clerk_publishable_key: Option<String>,

    /// Origins that session tokens may be issued for (claim `azp`), separated by commas [default: any]
    #[arg(long, env, value_name = "ORIGIN", value_delimiter = ',')]
    pub clerk_authorized_parties: Vec<String>,

    /// Accept session tokens without `azp` even if `CLERK_AUTHORIZED_PARTIES` is set; tokens of native apps have none
    #[arg(long, env, value_name = "BOOL", value_parser = switch, action = ArgAction::Set, num_args = 0..=1)]
    #[arg(
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true
    )]
    pub clerk_allow_missing_azp: bool,

    /// Required issuer of session tokens (claim `iss`): the URL of Clerk's Frontend API; several, separated by commas,
    /// for satellite domains [default: any]
    #[arg(long, env, value_name = "URL", value_delimiter = ',')]
    pub clerk_issuer: Vec<String>,

    /// Trust the claims that Envoy's `jwt_authn` filter stores under this name (`payload_in_metadata`); only for
    /// ext-authz
    #[arg(long, env = "ENTITLEMENTS_EXT_AUTHZ_JWT_PAYLOAD", value_name = "NAME")]
    pub ext_authz_jwt_payload: Option<String>,

    /// Name under which `jwt_authn` stores the header of the token (`header_in_metadata`): the header distinguishes
    /// session tokens from tokens of JWT templates and of machines [default: claims without `sid` are rejected]
    #[arg(long, env = "ENTITLEMENTS_EXT_AUTHZ_JWT_HEADER", value_name = "NAME")]
    pub ext_authz_jwt_header: Option<String>,
}

/// How session tokens are verified.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// The source of the keys.
    pub keys: KeySource,
    /// The rules for the claims.
    pub rules: Rules,
    /// The instance whose cookies are read, if it is known.
    pub instance: Option<Instance>,
}

/// The source of the keys that verify session tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// One public key, in PEM.
    Pem(String),
    /// The URL of a key set (JWKS).
    Url(String),
}

impl SessionSettings {
    /// How session tokens are verified; `None` without a key.
    ///
    /// # Errors
    /// If the publishable key is invalid.
    pub fn sessions(&self) -> anyhow::Result<Option<SessionConfig>> {
        let instance = non_empty(self.clerk_publishable_key.as_ref()).map(Instance::of).transpose();
        let instance = instance.context("CLERK_PUBLISHABLE_KEY")?;
        let keys =
            match (non_empty(self.clerk_jwt_key.as_ref()), non_empty(self.clerk_jwks_url.as_ref()))
            {
                (Some(pem), _) => KeySource::Pem(pem.to_owned()),
                (None, Some(url)) => KeySource::Url(url.to_owned()),
                (None, None) => return Ok(None),
            };
        Ok(Some(SessionConfig { keys, rules: self.rules(), instance }))
    }

    /// The dynamic metadata of Envoy's `jwt_authn` filter that is trusted, if it is configured.
    #[must_use]
    pub fn trusted_claims(&self) -> Option<TrustedClaims> {
        let payload = non_empty(self.ext_authz_jwt_payload.as_ref())?.to_owned();
        let header = non_empty(self.ext_authz_jwt_header.as_ref()).map(str::to_owned);
        Some(TrustedClaims { payload, header, rules: self.rules() })
    }

    fn rules(&self) -> Rules {
        Rules {
            parties: all_non_empty(&self.clerk_authorized_parties),
            azp_may_be_missing: self.clerk_allow_missing_azp,
            issuers: all_non_empty(&self.clerk_issuer),
        }
    }

    /// Whether these settings suffice for a protocol: gateway protocols must identify the signed-in user.
    #[must_use]
    pub fn suffice_for(&self, protocol: Protocol) -> bool {
        let has_keys = non_empty(self.clerk_jwt_key.as_ref())
            .or(non_empty(self.clerk_jwks_url.as_ref()))
            .is_some();
        match protocol {
            Protocol::Flagd
            | Protocol::FlagdSync
            | Protocol::Ofrep
            | Protocol::Authzen
            | Protocol::Connect
            | Protocol::None => true,
            Protocol::ForwardAuth => has_keys,
            Protocol::ExtAuthz => {
                has_keys || non_empty(self.ext_authz_jwt_payload.as_ref()).is_some()
            }
        }
    }

    /// Rejects a protocol that would deny every request, because no session token could be verified.
    pub(super) fn check(&self, protocols: &[Protocol]) -> anyhow::Result<()> {
        match protocols.iter().find(|protocol| !self.suffice_for(**protocol)) {
            None => Ok(()),
            Some(_) => bail!(
                "ENTITLEMENTS_PROTOCOLS names forward-auth or ext-authz, which verify Clerk's session tokens: set \
                 CLERK_JWT_KEY, or CLERK_JWKS_URL (or, for ext-authz behind jwt_authn, ENTITLEMENTS_EXT_AUTHZ_JWT_PAYLOAD)"
            ),
        }
    }
}

/// A trimmed setting; `None` if it is empty.
fn non_empty(setting: Option<&String>) -> Option<&str> {
    setting.map(|text| text.trim()).filter(|text| !text.is_empty())
}

/// The trimmed entries that are not empty.
fn all_non_empty(entries: &[String]) -> Vec<String> {
    let entries = entries.iter().map(|entry| entry.trim().to_owned());
    entries.filter(|entry| !entry.is_empty()).collect()
}
