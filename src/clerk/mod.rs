//! Clerk's formats and APIs, translated to the types of `domain`.
//!
//! [`Verifier`] checks the signature of a webhook, and [`read`] parses its body. Both are pure functions; no body is
//! parsed before its signature is verified. [`BackendApi`] calls Clerk's Backend API. [`SessionVerifier`] verifies
//! session tokens.

mod admission;
mod backend_api;
mod config_file;
mod cookies;
mod credentials;
mod http_client;
mod instance;
mod json;
mod jwks;
mod jwt;
mod plans;
mod rate_limit;
mod session_token;
mod signed_in;
#[cfg(test)]
mod tests;
mod webhook_event;
mod webhook_item;
mod webhook_signature;

pub use admission::{Rules, TrustedClaims};
pub use backend_api::{BackendApi, BackendApiError, BackendSubscription, Items};
pub use config_file::{ConfiguredPlans, InvalidConfiguration, read_configuration};
pub use credentials::Credentials;
pub use instance::{Instance, InvalidPublishableKey};
pub use jwks::{InvalidKeys, SessionKeys};
pub use jwt::{Claims, Header};
pub use plans::Plans;
pub use session_token::SessionVerifier;
pub use signed_in::{SessionError, SignedIn};
pub use webhook_event::read;
pub use webhook_signature::{
    InvalidSigningSecret, OBSERVATION_ID_PREFIX, SignatureError, SigningSecret, Verified, Verifier,
};
