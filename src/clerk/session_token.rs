//! Verifies Clerk's session tokens without a call to Clerk for each token.
//!
//! Source: npm's `@clerk/backend` (3.25.0), `authenticateRequest` for session tokens. A user is signed in here if the
//! SDK reports `signed-in`, and not if it reports `signed-out` or requires a redirect first (a handshake).
//! `tests/sessions` holds the SDK's answers. A token only identifies the caller: its claims about plans and features
//! may be a minute old, and are not read.

use super::{
    admission::Rules,
    cookies::{Choice, Chosen, CookieSet, Cookies, Issuer},
    credentials::Credentials,
    instance::Instance,
    jwks::{NoKey, SessionKeys},
    jwt::Token,
    signed_in::{SessionError, SignedIn},
};
use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, crypto};
use serde_json::Value;

/// Verifies session tokens.
#[derive(Debug)]
pub struct SessionVerifier {
    keys: SessionKeys,
    rules: Rules,
    /// The instance whose cookies are read, if it is known.
    instance: Option<Instance>,
}

impl SessionVerifier {
    /// Creates a verifier with these keys, and these rules for the claims.
    #[must_use]
    pub fn new(keys: SessionKeys, rules: Rules) -> Self {
        Self { keys, rules, instance: None }
    }

    /// Reads only the cookies of this instance.
    #[must_use]
    pub fn of_instance(self, instance: Option<Instance>) -> Self {
        Self { instance, ..self }
    }

    /// The signed-in user of a request. A token in the `Authorization` header takes precedence over cookies.
    pub async fn signed_in(&self, credentials: &Credentials<'_>) -> Result<SignedIn, SessionError> {
        let now = Utc::now();
        if let Some(token) = credentials.token() {
            let token = Token::parse(token);
            let token = token.ok_or_else(|| refused("it is not a JSON Web Token"))?;
            self.check_signature(&token).await?;
            return self.session(&token, now);
        }
        let Some(header) = credentials.cookies() else { return Err(SessionError::Missing) };
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
    ) -> Result<SignedIn, SessionError> {
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

    /// Without the publishable key, the instance's suffix is the one whose session cookie this instance signed. If
    /// there is none, all suffixes without a session cookie are candidates. If candidates disagree, the request is
    /// rejected.
    async fn by_any_cookies(
        &self,
        cookies: &Cookies<'_>,
        now: DateTime<Utc>,
    ) -> Result<SignedIn, SessionError> {
        let (signed, unverified) = self.signed(cookies).await;
        let none = CookieSet::default();
        let unsigned = cookies.suffixed.iter().map(|(_, set)| set);
        let unsigned = unsigned.filter(|set| set.session().is_none()).chain([&none]);
        let candidates = if signed.is_empty() { unsigned.collect() } else { signed.clone() };
        let (mut session, mut is_plain_checked) = (None, false);
        for set in candidates {
            let choice = self.guess(cookies, (!signed.is_empty()).then_some(set), now);
            let (token, chosen) = match choice.choose(&cookies.plain, set) {
                Err(SessionError::Missing) if unverified.is_some() => {
                    return Err(unverified.unwrap_or(SessionError::Missing));
                }
                chosen => chosen?,
            };
            // `signed` has checked the signatures of the cookies with a suffix.
            if chosen == Chosen::Plain && !is_plain_checked {
                self.check_signature(token).await?;
                is_plain_checked = true;
            }
            let found = self.session(token, now)?;
            if session.get_or_insert_with(|| found.clone()) != &found {
                return Err(refused(
                    "the cookies belong to several sessions: set CLERK_PUBLISHABLE_KEY to choose one",
                ));
            }
        }
        session.ok_or(SessionError::Missing)
    }

    /// The cookies with a suffix whose session this instance signed; and an error if a signature could not be checked.
    async fn signed<'s, 'c>(
        &self,
        cookies: &'s Cookies<'c>,
    ) -> (Vec<&'s CookieSet<'c>>, Option<SessionError>) {
        let (mut signed, mut unverified) = (Vec::new(), None);
        for (_, set) in &cookies.suffixed {
            let Some(token) = &set.token else { continue };
            match self.check_signature(token).await {
                Ok(()) => signed.push(set),
                Err(error @ SessionError::NoKeys(_)) => unverified = Some(error),
                Err(SessionError::Missing | SessionError::Refused(_)) => {}
            }
        }
        (signed, unverified)
    }

    /// The inputs of the choice without a publishable key. `own` are cookies that this instance signed, if there are
    /// any.
    fn guess<'a>(
        &'a self,
        cookies: &Cookies<'_>,
        own: Option<&'a CookieSet<'_>>,
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

    /// The session of a token whose signature was verified.
    fn session(&self, token: &Token<'_>, now: DateTime<Utc>) -> Result<SignedIn, SessionError> {
        match token.header.objection() {
            Some(objection) => Err(refused(objection)),
            None => self.rules.admit(&token.claims, now),
        }
    }

    /// Checks that this instance signed a token.
    async fn check_signature(&self, token: &Token<'_>) -> Result<(), SessionError> {
        if token.header.alg.as_ref().and_then(Value::as_str) != Some("RS256") {
            return Err(refused("it is not signed with RS256, as JSON Web Tokens of Clerk are"));
        }
        let key = self.keys.key(token.header.key()).await.map_err(|error| match error {
            NoKey::Unknown => refused("its key (`kid`) is not of this Clerk instance"),
            NoKey::Unavailable(reason) => SessionError::NoKeys(reason),
        })?;
        match crypto::verify(token.signature, token.message.as_bytes(), &key, Algorithm::RS256) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(refused("its signature is invalid")),
        }
    }
}

fn refused(reason: &str) -> SessionError {
    SessionError::Refused(reason.into())
}
