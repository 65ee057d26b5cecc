//! Who is signed in: Clerk's session tokens, verified without asking Clerk.
//!
//! Source: npm's `@clerk/backend` (3.25.0), `authenticateRequest` for session tokens. Whom the SDK calls signed in, is
//! signed in here; whom the SDK would send through a redirect first (a handshake), or sees signed out, is not.
//! `tests/sessions` holds its answers. A token says who asks, never what they may use: what it says of plans and
//! features may be a minute old, and is not read.

use super::{
    admission::Rules,
    cookies::{Choice, Chosen, Cookies, Issuer, Set},
    credentials::Credentials,
    instance::Instance,
    jwks::{Keys, NoKey},
    jwt::Token,
};
use crate::domain::Subject;
use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, crypto};
use serde_json::Value;

/// Verifies session tokens.
#[derive(Debug)]
pub struct Sessions {
    keys: Keys,
    rules: Rules,
    /// Whose cookies count, if that is known.
    instance: Option<Instance>,
}

/// Who is signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The user.
    pub user: Subject,
    /// The organization that is active in the session.
    pub organization: Option<Subject>,
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
    /// Verifies with these keys; of claims, the rules decide.
    #[must_use]
    pub fn new(keys: Keys, rules: Rules) -> Self {
        Self { keys, rules, instance: None }
    }

    /// Reads cookies as those of this instance.
    #[must_use]
    pub fn of_instance(self, instance: Option<Instance>) -> Self {
        Self { instance, ..self }
    }

    /// Who is signed in by what a request brings. A token in the header counts alone; without one, cookies do.
    pub async fn signed_in(&self, credentials: &Credentials<'_>) -> Result<Session, Unverified> {
        let now = Utc::now();
        if let Some(token) = credentials.token() {
            let token = Token::parse(token).ok_or_else(|| refused("it is no JSON Web Token"))?;
            self.check_signature(&token).await?;
            return self.session(&token, now);
        }
        let Some(header) = credentials.cookies() else { return Err(Unverified::Missing) };
        match &self.instance {
            Some(instance) => self.by_cookies_of(instance, header, now).await,
            None => self.by_any_cookies(&Cookies::of(header, None), now).await,
        }
    }

    async fn by_cookies_of(
        &self,
        instance: &Instance,
        header: &str,
        now: DateTime<Utc>,
    ) -> Result<Session, Unverified> {
        let mut cookies = Cookies::of(header, Some(&instance.suffix));
        let suffixed = cookies.suffixed.pop().map(|(_, set)| set).unwrap_or_default();
        let choice = Choice {
            issuer: Issuer::Of(instance),
            is_development: instance.is_development,
            trusts_session_alone: false,
            now,
        };
        let (token, _) = choice.choose(&cookies.plain, &suffixed)?;
        self.check_signature(token).await?;
        self.session(token, now)
    }

    /// Without the publishable key, the suffix is the one whose session has a signature of this instance; if none has,
    /// any may be, of those that came without a session. Where two could be and disagree, nobody is signed in.
    async fn by_any_cookies(
        &self,
        cookies: &Cookies<'_>,
        now: DateTime<Utc>,
    ) -> Result<Session, Unverified> {
        let (signed, away) = self.signed(cookies).await;
        let none = Set::default();
        let unsaid = cookies.suffixed.iter().map(|(_, set)| set);
        let unsaid = unsaid.filter(|set| set.session().is_none()).chain([&none]);
        let candidates = if signed.is_empty() { unsaid.collect() } else { signed.clone() };
        let (mut session, mut is_plain_checked) = (None, false);
        for set in candidates {
            let choice = self.guess(cookies, (!signed.is_empty()).then_some(set), now);
            let (token, chosen) = match choice.choose(&cookies.plain, set) {
                Err(Unverified::Missing) if away.is_some() => {
                    return Err(away.unwrap_or(Unverified::Missing));
                }
                chosen => chosen?,
            };
            // The signatures of the suffixed ones are checked by now.
            if chosen == Chosen::Plain && !is_plain_checked {
                self.check_signature(token).await?;
                is_plain_checked = true;
            }
            let found = self.session(token, now)?;
            if session.get_or_insert_with(|| found.clone()) != &found {
                return Err(refused(
                    "the cookies are of several sessions: set CLERK_PUBLISHABLE_KEY to tell them apart",
                ));
            }
        }
        session.ok_or(Unverified::Missing)
    }

    /// The cookies with a suffix whose session is signed by this instance, and why others may be as well.
    async fn signed<'s, 'c>(
        &self,
        cookies: &'s Cookies<'c>,
    ) -> (Vec<&'s Set<'c>>, Option<Unverified>) {
        let (mut signed, mut away) = (Vec::new(), None);
        for (_, set) in &cookies.suffixed {
            let Some(token) = &set.token else { continue };
            match self.check_signature(token).await {
                Ok(()) => signed.push(set),
                Err(error @ Unverified::NoKeys(_)) => away = Some(error),
                Err(Unverified::Missing | Unverified::Refused(_)) => {}
            }
        }
        (signed, away)
    }

    /// What is known of the instance without its publishable key, where a set of cookies is known to be its own.
    fn guess<'a>(
        &'a self,
        cookies: &Cookies<'_>,
        own: Option<&'a Set<'_>>,
        now: DateTime<Utc>,
    ) -> Choice<'a> {
        let own = own.and_then(|set| set.token.as_ref()).and_then(|token| token.claims.issuer());
        let issuer = match own {
            Some(own) => Issuer::Is(own),
            None if self.rules.issuers.is_empty() => Issuer::Unknown,
            None => Issuer::OneOf(&self.rules.issuers),
        };
        let trusts_session_alone = !cookies.have_client_uat();
        Choice { issuer, is_development: false, trusts_session_alone, now }
    }

    /// The session of a token whose signature fits.
    fn session(&self, token: &Token<'_>, now: DateTime<Utc>) -> Result<Session, Unverified> {
        match token.header.objection() {
            Some(objection) => Err(refused(objection)),
            None => self.rules.admit(&token.claims, now),
        }
    }

    /// Whether this instance signed a token.
    async fn check_signature(&self, token: &Token<'_>) -> Result<(), Unverified> {
        if token.header.alg.as_ref().and_then(Value::as_str) != Some("RS256") {
            return Err(refused("it is no JSON Web Token that is signed with RS256"));
        }
        let key = self.keys.key(token.header.key()).await.map_err(|error| match error {
            NoKey::Unknown => refused("it is signed with a key that is not of this Clerk instance"),
            NoKey::Away(reason) => Unverified::NoKeys(reason),
        })?;
        match crypto::verify(token.signature, token.message.as_bytes(), &key, Algorithm::RS256) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(refused("its signature does not fit")),
        }
    }
}

fn refused(reason: &str) -> Unverified {
    Unverified::Refused(reason.into())
}
