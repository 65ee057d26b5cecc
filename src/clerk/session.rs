//! Who is signed in: Clerk's session tokens, verified without asking Clerk.
//!
//! Source: <https://clerk.com/docs/backend-requests/resources/session-tokens>, both versions of its claims. A token
//! says who asks, never what they may use: what it says of plans and features may be a minute old, and is not read.

use super::jwks::{Keys, NoKey};
use crate::access::{Kind, Subject};
use jsonwebtoken::{Algorithm, Validation, decode, decode_header, errors::ErrorKind};
use serde::Deserialize;

/// How far Clerk's clock and ours may be apart, in seconds; Clerk's own libraries allow as much.
const SKEW: u64 = 5;

/// Verifies session tokens.
#[derive(Debug)]
pub struct Sessions {
    keys: Keys,
    /// The origins that a token may have been made for; none: any.
    parties: Vec<String>,
    rules: Validation,
}

/// Who is signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The user.
    pub user: Subject,
    /// The organization that is active in the session.
    pub organization: Option<Subject>,
}

/// What is read of a token, or of what a gateway has verified of one.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Claims {
    /// Who.
    #[serde(default)]
    pub sub: String,
    /// The origin that the token was made for.
    pub azp: Option<String>,
    /// `pending`: the session is not complete, and Clerk itself calls it signed out.
    pub sts: Option<String>,
    /// The active organization, since version 2.
    pub o: Option<Organization>,
    /// The active organization, in version 1.
    pub org_id: Option<String>,
}

/// The active organization, as version 2 has it.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Organization {
    /// Its id.
    pub id: Option<String>,
}

/// Why nobody is known to be signed in.
#[derive(Debug, thiserror::Error)]
pub enum Unverified {
    /// No token was sent.
    #[error(
        "there is no session token: sign in, and send it as a Bearer token or in Clerk's cookie"
    )]
    Missing,
    /// The token is not Clerk's, not for here, or not of now.
    #[error("the session token is refused: {0}")]
    Refused(String),
    /// The keys that it would have to be verified with are not at hand.
    #[error("the session token cannot be verified: {0}")]
    NoKeys(String),
}

impl Sessions {
    /// Verifies with these keys; `parties` and `issuer` restrict what a token is for and who made it.
    #[must_use]
    pub fn new(keys: Keys, parties: Vec<String>, issuer: Option<&str>) -> Self {
        let mut rules = Validation::new(Algorithm::RS256);
        rules.leeway = SKEW;
        rules.validate_nbf = true;
        rules.validate_aud = false; // Clerk's session tokens have none unless they are customized
        rules.set_required_spec_claims(&["exp", "sub"]);
        if let Some(issuer) = issuer {
            rules.set_issuer(&[issuer]);
            rules.set_required_spec_claims(&["exp", "sub", "iss"]);
        }
        Self { keys, parties, rules }
    }

    /// Who is signed in by this token.
    pub async fn verify(&self, token: &str) -> Result<Session, Unverified> {
        let refused = |reason: &str| Unverified::Refused(reason.into());
        let header = decode_header(token).map_err(|_| refused("it is no JSON Web Token"))?;
        if header.typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT")) {
            return Err(refused("it is another kind of token"));
        }
        if header.alg != Algorithm::RS256 {
            return Err(refused("it is not signed with RS256"));
        }
        let key = self.keys.key(header.kid.as_deref()).await.map_err(|error| match error {
            NoKey::Unknown => refused("it is signed with a key that is not of this Clerk instance"),
            NoKey::Away(reason) => Unverified::NoKeys(reason),
        })?;
        let claims =
            decode::<Claims>(token, &key, &self.rules).map_err(|error| refused(why(&error)))?;
        self.admit(&claims.claims)
    }

    fn admit(&self, claims: &Claims) -> Result<Session, Unverified> {
        match &claims.azp {
            Some(azp) if !self.parties.is_empty() && !self.parties.contains(azp) => {
                Err(Unverified::Refused("it was made for an origin that is not authorized".into()))
            }
            _ => Session::of(claims),
        }
    }
}

impl Session {
    /// Who is signed in, by claims that somebody trusted has verified.
    pub fn of(claims: &Claims) -> Result<Self, Unverified> {
        let refused = |reason: String| Unverified::Refused(reason);
        if claims.sts.as_deref() == Some("pending") {
            return Err(refused("the session is pending: its sign-in is not complete".into()));
        }
        let user = Subject::of(Kind::User, &claims.sub);
        let user = user.map_err(|error| refused(format!("its `sub` {error}")))?;
        let organization = claims.o.as_ref().and_then(|o| o.id.as_deref());
        let organization = organization.or(claims.org_id.as_deref()).filter(|id| !id.is_empty());
        let organization = organization.map(|id| Subject::of(Kind::Organization, id)).transpose();
        let organization =
            organization.map_err(|error| refused(format!("its active organization {error}")))?;
        Ok(Self { user, organization })
    }
}

/// In words, without anything of the token.
fn why(error: &jsonwebtoken::errors::Error) -> &'static str {
    match error.kind() {
        ErrorKind::ExpiredSignature => "it has expired",
        ErrorKind::ImmatureSignature => "it is not valid yet",
        ErrorKind::InvalidIssuer => "it was issued by another Clerk instance",
        ErrorKind::InvalidSignature => "its signature does not fit",
        ErrorKind::MissingRequiredClaim(_) => "a claim is missing that every session token has",
        _ => "it is malformed",
    }
}
