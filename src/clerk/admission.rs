//! Which verified claims are a session: the rules of Clerk's SDK, and no others.
//!
//! The rules hold for every token whose signature fits, whoever verified it: this service or Envoy's `jwt_authn`.
//! They are stricter than the SDK's in three places: `sub` must be the id of a Clerk user, the active organization
//! the id of a Clerk organization, and `o` an object.

use super::{
    jwt::{Claims, Header},
    session_token::{Session, Unverified},
};
use crate::domain::{Kind, Subject};
use chrono::{DateTime, Utc};
use serde_json::Value;

/// How far Clerk's clock and this machine's may be apart, in seconds, as in Clerk's SDK.
const SKEW: f64 = 5.0;

/// What a session's claims must say.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The origins that a token may have been made for (`azp`); none: any.
    pub parties: Vec<String>,
    /// Whether a token without `azp` is accepted although `parties` are named.
    pub azp_may_be_missing: bool,
    /// The Frontend APIs that may have made a token (`iss`); none: any.
    pub issuers: Vec<String>,
}

/// Claims that Envoy's `jwt_authn` filter has verified, and where it leaves them.
#[derive(Debug, Clone)]
pub struct TrustedClaims {
    /// The filter's `payload_in_metadata`.
    pub payload: String,
    /// The filter's `header_in_metadata`, if it leaves headers as well.
    pub header: Option<String>,
    /// What the claims must say.
    pub rules: Rules,
}

impl TrustedClaims {
    /// The session of claims whose signature is known to fit.
    pub fn admit(
        &self,
        claims: &Claims,
        header: Option<&Header>,
        now: DateTime<Utc>,
    ) -> Result<Session, Unverified> {
        match (header, &self.header) {
            (Some(header), _) => header.objection().map_or(Ok(()), |why| Err(refused(why)))?,
            (None, Some(_)) => {
                return Err(refused(
                    "`jwt_authn` left no header: set its `header_in_metadata` to EXT_AUTHZ_JWT_HEADER",
                ));
            }
            // Without the header its category is unknown; but only a session's token has a session's id by itself.
            (None, None) if !matches!(&claims.sid, Some(Value::String(sid)) if !sid.is_empty()) => {
                return Err(refused(
                    "it has no `sid`, which every session token has: is it made by a JWT template?",
                ));
            }
            (None, None) => {}
        }
        self.rules.admit(claims, now)
    }
}

impl Rules {
    /// The session of claims whose signature fits, at a moment.
    pub(super) fn admit(&self, claims: &Claims, now: DateTime<Utc>) -> Result<Session, Unverified> {
        if !matches!(claims.sub, Some(Value::String(_))) {
            return Err(refused("it is malformed: `sub` must be a text"));
        }
        self.check_party(claims.azp.as_ref())?;
        if !self.issuers.is_empty() && !is_one_of(claims.iss.as_ref(), &self.issuers) {
            return Err(refused(
                "it was issued by another Clerk instance (`iss`; see CLERK_ISSUER)",
            ));
        }
        check_times(claims, now)?;
        if claims.sts.as_ref().and_then(Value::as_str) == Some("pending") {
            return Err(refused("the session is pending: its sign-in is not complete"));
        }
        let user = claims.sub.as_ref().and_then(Value::as_str).unwrap_or_default();
        let user = Subject::of(Kind::User, user);
        let user = user.map_err(|error| Unverified::Refused(format!("its `sub` {error}")))?;
        Ok(Session { user, organization: organization(claims)? })
    }

    fn check_party(&self, azp: Option<&Value>) -> Result<(), Unverified> {
        match azp {
            _ if self.parties.is_empty() || is_one_of(azp, &self.parties) => Ok(()),
            None | Some(Value::Null) if self.azp_may_be_missing => Ok(()),
            None | Some(Value::Null) => Err(refused(
                "it names no origin (`azp`), but CLERK_AUTHORIZED_PARTIES is set: native apps need \
                 CLERK_ALLOW_MISSING_AZP",
            )),
            Some(_) => Err(refused("it was made for an origin that is not authorized (`azp`)")),
        }
    }
}

fn refused(reason: &str) -> Unverified {
    Unverified::Refused(reason.into())
}

fn is_one_of(claim: Option<&Value>, allowed: &[String]) -> bool {
    claim.and_then(Value::as_str).is_some_and(|claim| allowed.iter().any(|one| one == claim))
}

fn check_times(claims: &Claims, now: DateTime<Utc>) -> Result<(), Unverified> {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 are exact in 53 bits")]
    let now = now.timestamp_millis() as f64 / 1000.0;
    let seconds = |claim: &Option<Value>, name: &str| match claim {
        None => Ok(None),
        // JavaScript's dates have whole seconds here.
        Some(value) => value.as_f64().map(|at| Some(at.trunc())).ok_or_else(|| {
            Unverified::Refused(format!("it is malformed: `{name}` must be a number"))
        }),
    };
    let missing = || refused("a claim is missing that every session token has: `exp`");
    let expires = seconds(&claims.exp, "exp")?.ok_or_else(missing)?;
    if expires <= now - SKEW {
        return Err(refused("it has expired"));
    }
    if seconds(&claims.nbf, "nbf")?.is_some_and(|from| from > now + SKEW) {
        return Err(refused("it is not valid yet (`nbf`)"));
    }
    if seconds(&claims.iat, "iat")?.is_some_and(|made| made > now + SKEW) {
        return Err(refused("it is not valid yet: it was made in the future (`iat`)"));
    }
    Ok(())
}

/// The active organization. The version decides which claims count: those of another version are not Clerk's, and may
/// hold what customers fill in.
fn organization(claims: &Claims) -> Result<Option<Subject>, Unverified> {
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
            .map_err(|error| Unverified::Refused(format!("its active organization {error}"))),
        Some(_) => Err(refused("it is malformed: the id of its organization must be a text")),
    }
}
