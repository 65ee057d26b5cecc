//! From Clerk's signed bytes and Backend API to our types.
//!
//! [`Verifier`] says whether Clerk sent a body, [`read`] says what the body means. Both are pure; nothing
//! is parsed before its signature is verified. [`Api`] asks Clerk itself. [`Sessions`] says who is signed in.

mod admission;
mod backend_api;
mod cookies;
mod credentials;
mod http_client;
mod instance;
mod json;
mod jwks;
mod jwt;
mod rate_limit;
mod session_token;
#[cfg(test)]
mod tests;
mod webhook_event;
mod webhook_item;
mod webhook_signature;

pub use admission::{Rules, TrustedClaims};
pub use backend_api::{Api, ApiError, Items, Observation, Plans};
pub use credentials::Credentials;
pub use instance::{Instance, InvalidPublishableKey};
pub use jwks::{InvalidKeys, Keys};
pub use jwt::{Claims, Header};
pub use session_token::{Session, Sessions, Unverified};
pub use webhook_event::read;
pub use webhook_signature::{InvalidSecret, OBSERVED, Refusal, Secret, Verified, Verifier};
