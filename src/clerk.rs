//! From Clerk's signed bytes and Backend API to our types.
//!
//! [`Verifier`] says whether Clerk sent a body, [`read`] says what the body means. Both are pure; nothing
//! is parsed before its signature is verified. [`Api`] asks Clerk itself.

mod api;
mod body;
mod pace;
mod read;
mod signature;
#[cfg(test)]
mod tests;

pub use api::{Api, ApiError, Items, Observation};
pub use read::read;
pub use signature::{InvalidSecret, Refusal, Secret, Verifier};
