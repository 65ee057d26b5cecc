//! From Clerk's signed bytes to our types.
//!
//! [`Verifier`] says whether Clerk sent a body, [`read`] says what the body means. Both are pure; nothing
//! is parsed before its signature is verified.

mod body;
mod read;
mod signature;
#[cfg(test)]
mod tests;

pub use read::read;
pub use signature::{InvalidSecret, Refusal, Secret, Verifier};
