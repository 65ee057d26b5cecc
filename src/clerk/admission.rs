//! Decides which verified claims are a valid session, by the rules of Clerk's SDK.
//!
//! The rules apply to every token whose signature was verified, by this service or by Envoy's `jwt_authn`. They are
//! stricter than the SDK's in three places: `sub` must be the id of a Clerk user, the active organization must be the
//! id of a Clerk organization, and `o` must be an object.

use super::{
    jwt::{Claims, Header},
    signed_in::{SessionError, SignedIn},
};
use crate::domain::{Kind, Subject};
use chrono::{DateTime, Utc};
use serde_json::Value;

/// The tolerated difference between Clerk's clock and this machine's, in seconds, as in Clerk's SDK.
const MAX_TOKEN_CLOCK_SKEW_S: f64 = 5.0;

/// The rules for the claims of a session.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The accepted origins (`azp`); empty: all.
    pub parties: Vec<String>,
    /// Whether a token without `azp` is accepted if `parties` is not empty.
    pub azp_may_be_missing: bool,
    /// The accepted Frontend APIs (`iss`); empty: all.
    pub issuers: Vec<String>,
}

/// Accepts claims that Envoy's `jwt_authn` filter has verified and put into the request's metadata.
#[derive(Debug, Clone)]
pub struct TrustedClaims {
    /// The filter's `payload_in_metadata`.
    pub payload: String,
    /// The filter's `header_in_metadata`, if it is set.
    pub header: Option<String>,
    /// The rules for the claims.
    pub rules: Rules,
}

impl TrustedClaims {
    /// The session of claims whose signature Envoy has verified.
    pub fn admit(
        &self,
        claims: &Claims,
        header: Option<&Header>,
        now: DateTime<Utc>,
    ) -> Result<SignedIn, SessionError> {
        match (header, &self.header) {
            (Some(header), _) => header.objection().map_or(Ok(()), |why| Err(refused(why)))?,
            (None, Some(_)) => {
                return Err(refused(
                    "`jwt_authn` passed no token header: set its `header_in_metadata` to ENTITLEMENTS_EXT_AUTHZ_JWT_HEADER",
                ));
            }
            // Without the header the token's category is unknown. Only a session token has a `sid` by default.
            (None, None) if !matches!(&claims.sid, Some(Value::String(sid)) if !sid.is_empty()) => {
                return Err(refused(
                    "it has no `sid`, which every session token has: it may be a token of a JWT template",
                ));
            }
            (None, None) => {}
        }
        self.rules.admit(claims, now)
    }
}

impl Rules {
    /// The session of claims whose signature was verified, at the instant `now`.
    pub(super) fn admit(
        &self,
        claims: &Claims,
        now: DateTime<Utc>,
    ) -> Result<SignedIn, SessionError> {
        if !matches!(claims.sub, Some(Value::String(_))) {
            return Err(refused("it is malformed: `sub` must be a string"));
        }
        self.check_party(claims.azp.as_ref())?;
        if !self.issuers.is_empty() && !is_one_of(claims.iss.as_ref(), &self.issuers) {
            return Err(refused("another Clerk instance issued it (`iss`): check CLERK_ISSUER"));
        }
        check_times(claims, now)?;
        if claims.sts.as_ref().and_then(Value::as_str) == Some("pending") {
            return Err(refused("the session is pending: its sign-in is not complete"));
        }
        let user = claims.sub.as_ref().and_then(Value::as_str).unwrap_or_default();
        let user = Subject::of(Kind::User, user);
        let user = user.map_err(|error| SessionError::Refused(format!("its `sub` {error}")))?;
        Ok(SignedIn { user, organization: organization(claims)? })
    }

    fn check_party(&self, azp: Option<&Value>) -> Result<(), SessionError> {
        match azp {
            _ if self.parties.is_empty() || is_one_of(azp, &self.parties) => Ok(()),
            None | Some(Value::Null) if self.azp_may_be_missing => Ok(()),
            None | Some(Value::Null) => Err(refused(
                "it has no origin (`azp`), which CLERK_AUTHORIZED_PARTIES requires: for native apps, set \
                 CLERK_ALLOW_MISSING_AZP",
            )),
            Some(_) => Err(refused(
                "its origin (`azp`) is not authorized: add it to CLERK_AUTHORIZED_PARTIES",
            )),
        }
    }
}

fn refused(reason: &str) -> SessionError {
    SessionError::Refused(reason.into())
}

fn is_one_of(claim: Option<&Value>, allowed: &[String]) -> bool {
    claim.and_then(Value::as_str).is_some_and(|claim| allowed.iter().any(|one| one == claim))
}

fn check_times(claims: &Claims, now: DateTime<Utc>) -> Result<(), SessionError> {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 are exact in 53 bits")]
    let now = now.timestamp_millis() as f64 / 1000.0;
    let seconds = |claim: &Option<Value>, name: &str| match claim {
        None => Ok(None),
        // Clerk's SDK truncates the dates to whole seconds.
        Some(value) => value.as_f64().map(|at| Some(at.trunc())).ok_or_else(|| {
            SessionError::Refused(format!("it is malformed: `{name}` must be a number"))
        }),
    };
    let missing = || refused("a claim is missing that every session token has: `exp`");
    let expires = seconds(&claims.exp, "exp")?.ok_or_else(missing)?;
    if expires <= now - MAX_TOKEN_CLOCK_SKEW_S {
        return Err(refused("it has expired"));
    }
    if seconds(&claims.nbf, "nbf")?.is_some_and(|from| from > now + MAX_TOKEN_CLOCK_SKEW_S) {
        return Err(refused("it is not valid yet (`nbf`)"));
    }
    if seconds(&claims.iat, "iat")?.is_some_and(|made| made > now + MAX_TOKEN_CLOCK_SKEW_S) {
        return Err(refused("it is not valid yet: it was issued in the future (`iat`)"));
    }
    Ok(())
}

/// The active organization. The claims' version decides which claim is read: the claim of another version is not
/// Clerk's and may be a custom claim.
fn organization(claims: &Claims) -> Result<Option<Subject>, SessionError> {
    let is_second = claims.v.as_ref().and_then(Value::as_f64) == Some(2.0);
    let id = match &claims.o {
        _ if !is_second => claims.org_id.as_ref(),
        Some(Value::Object(o)) => o.get("id"),
        None | Some(Value::Null) => None,
        Some(_) => return Err(refused("it is malformed: `o` must be an object")),
    };
    match id {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) if id.is_empty() => Ok(None),
        Some(Value::String(id)) => Subject::of(Kind::Organization, id)
            .map(Some)
            .map_err(|error| SessionError::Refused(format!("its active organization {error}"))),
        Some(_) => Err(refused("it is malformed: the id of its organization must be a string")),
    }
}
