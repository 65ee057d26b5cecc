//! From Clerk's signed bytes and Backend API to our types.
//!
//! [`Verifier`] says whether Clerk sent a body, [`read`] says what the body means. Both are pure; nothing
//! is parsed before its signature is verified. [`Api`] asks Clerk itself. [`Sessions`] says who is signed in.

mod api;
mod item;
mod json;
mod jwks;
mod pace;
mod read;
mod session;
mod signature;
#[cfg(test)]
mod tests;

pub use api::{Api, ApiError, Items, Observation, Plans};
pub use jwks::{InvalidKeys, Keys};
pub use read::read;
pub use session::{Claims, Organization, Session, Sessions, Unverified};
pub use signature::{InvalidSecret, Refusal, Secret, Verified, Verifier};
