//! From Clerk's signed bytes and Backend API to our types.
//!
//! [`Verifier`] says whether Clerk sent a body, [`read`] says what the body means. Both are pure; nothing
//! is parsed before its signature is verified. [`Api`] asks Clerk itself. [`Sessions`] says who is signed in.

mod admission;
mod api;
mod cookies;
mod credentials;
mod instance;
mod item;
mod json;
mod jwks;
mod pace;
mod read;
mod session;
mod signature;
#[cfg(test)]
mod tests;
mod token;
mod transport;

pub use admission::{Rules, TrustedClaims};
pub use api::{Api, ApiError, Items, Observation, Plans};
pub use credentials::Credentials;
pub use instance::{Instance, InvalidPublishableKey};
pub use jwks::{InvalidKeys, Keys};
pub use read::read;
pub use session::{Session, Sessions, Unverified};
pub use signature::{InvalidSecret, OBSERVED, Refusal, Secret, Verified, Verifier};
pub use token::{Claims, Header};
