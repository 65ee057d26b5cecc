//! API keys: generation, names and hashes.

use aws_lc_rs::rand;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{borrow::Borrow, fmt, str::FromStr};

/// The digits of base62.
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The number of random base62 digits in a key: 256 bits.
const KEY_LEN: usize = 43;
/// The maximum length of a key's name, in bytes.
const MAX_NAME_LEN: usize = 40;

/// The name of a key: lower-case letters, digits, and `-` between them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct CallerName(String);

impl CallerName {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for CallerName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The text is not a valid name of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a valid key name: use 1 to 40 of a-z, 0-9 and, between them, `-`")]
pub(super) struct InvalidCallerName(String);

impl FromStr for CallerName {
    type Err = InvalidCallerName;

    fn from_str(name: &str) -> Result<Self, InvalidCallerName> {
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let is_name = (1..=MAX_NAME_LEN).contains(&name.len())
            && name.bytes().all(|b| is_plain(b) || b == b'-')
            && !name.starts_with('-')
            && !name.ends_with('-');
        if is_name { Ok(Self(name.into())) } else { Err(InvalidCallerName(name.into())) }
    }
}

impl TryFrom<String> for CallerName {
    type Error = InvalidCallerName;

    fn try_from(name: String) -> Result<Self, InvalidCallerName> {
        name.parse()
    }
}

/// Generates a key, `ent_NAME_RANDOM`: the prefix and the name identify a leaked key.
pub(super) fn make(name: &CallerName) -> anyhow::Result<String> {
    let mut random = String::with_capacity(KEY_LEN);
    while random.len() < KEY_LEN {
        let mut bytes = [0; 64];
        rand::fill(&mut bytes)
            .map_err(|_| anyhow::anyhow!("the operating system returned no random bytes"))?;
        // 248 is the largest multiple of 62 in a byte; larger bytes would make the first digits more likely.
        let digits = bytes.into_iter().filter(|byte| *byte < 248);
        let left = KEY_LEN - random.len();
        random.extend(digits.take(left).map(|byte| char::from(DIGITS[usize::from(byte % 62)])));
    }
    Ok(format!("ent_{}_{random}", name.0))
}

/// The SHA-256 of a key. A key has 256 random bits, so it cannot be guessed and needs no slow hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String")]
pub(super) struct KeyHash(pub(super) [u8; 32]);

impl KeyHash {
    pub(super) fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The text is not a SHA-256 in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "sha256 must be the 64 hexadecimal digits of a key's SHA-256: `entitlements keys create` writes them"
)]
pub(super) struct InvalidKeyHash;

impl TryFrom<String> for KeyHash {
    type Error = InvalidKeyHash;

    fn try_from(text: String) -> Result<Self, InvalidKeyHash> {
        let mut hash = [0; 32];
        hex::decode_to_slice(text, &mut hash).map_err(|_| InvalidKeyHash)?;
        Ok(Self(hash))
    }
}
