//! Chooses the cookie that holds the session, as Clerk's SDK does.
//!
//! An instance sets each cookie twice: `__session` and `__client_uat`, which instances on one domain share, and a copy
//! of each with the instance's own suffix. `__client_uat` is the time of the last sign-in, or 0 after a sign-out.

use super::{
    instance::{Instance, SUFFIX_LEN},
    jwt::Token,
    signed_in::SessionError,
};
use chrono::{DateTime, Utc};
use serde_json::Value;

/// How many suffixes are read at most if the instance's suffix is unknown.
const MAX_SUFFIXES: usize = 4;

/// The cookies of one suffix, or without one.
#[derive(Default)]
pub(super) struct CookieSet<'c> {
    session: Option<&'c str>,
    /// The parsed `session`, if it is a JSON Web Token.
    pub token: Option<Token<'c>>,
    client_uat: Option<&'c str>,
    dev_browser: Option<&'c str>,
}

/// The session cookies of a request.
#[derive(Default)]
pub(super) struct Cookies<'c> {
    pub plain: CookieSet<'c>,
    /// By suffix.
    pub suffixed: Vec<(&'c str, CookieSet<'c>)>,
}

/// The inputs for the choice between cookies with and without a suffix.
pub(super) struct Choice<'a> {
    pub issuer: Issuer<'a>,
    pub is_development: bool,
    /// Whether a session cookie is accepted without a `__client_uat`.
    pub trusts_session_alone: bool,
    pub now: DateTime<Utc>,
}

/// The issuer (`iss`) of the instance's tokens, as far as it is known.
#[derive(Clone, Copy)]
pub(super) enum Issuer<'a> {
    Of(&'a Instance),
    Is(&'a str),
    OneOf(&'a [String]),
    Unknown,
}

/// The set of cookies that the token was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chosen {
    Plain,
    Suffixed,
}

impl<'c> Cookies<'c> {
    /// Parses a `Cookie` header. If a name is repeated, the first value counts. If `only` is set, cookies with other
    /// suffixes are ignored.
    pub fn of(header: &'c str, only: Option<&str>) -> Self {
        let mut cookies = Self::default();
        for (name, value) in header.split(';').filter_map(|cookie| cookie.split_once('=')) {
            let blank = [' ', '\t'];
            let Some((kind, suffix)) = split(name.trim_matches(blank)) else { continue };
            let Some(set) = cookies.set(suffix, only) else { continue };
            let slot = match kind {
                Cookie::Session => &mut set.session,
                Cookie::ClientUat => &mut set.client_uat,
                Cookie::DevBrowser => &mut set.dev_browser,
            };
            slot.get_or_insert(value.trim_matches(blank));
        }
        let suffixed = cookies.suffixed.iter_mut().map(|(_, set)| set);
        for set in suffixed.chain([&mut cookies.plain]) {
            set.token = set.session().and_then(Token::parse);
        }
        cookies
    }

    fn set(&mut self, suffix: Option<&'c str>, only: Option<&str>) -> Option<&mut CookieSet<'c>> {
        let Some(suffix) = suffix else { return Some(&mut self.plain) };
        if only.is_some_and(|only| only != suffix) {
            return None;
        }
        let at = self.suffixed.iter().position(|(known, _)| *known == suffix);
        if at.is_none() && self.suffixed.len() < MAX_SUFFIXES {
            self.suffixed.push((suffix, CookieSet::default()));
        }
        let at = at
            .or(self.suffixed.len().checked_sub(1))
            .filter(|at| self.suffixed[*at].0 == suffix)?;
        Some(&mut self.suffixed[at].1)
    }

    /// Whether the request has a `__client_uat`, with any suffix, even an empty one.
    pub fn have_client_uat(&self) -> bool {
        let sets = self.suffixed.iter().map(|(_, set)| set).chain([&self.plain]);
        sets.into_iter().any(|set| set.client_uat.is_some())
    }
}

enum Cookie {
    Session,
    ClientUat,
    DevBrowser,
}

/// The kind of a cookie and its suffix; `None` for a cookie that is not Clerk's.
fn split(name: &str) -> Option<(Cookie, Option<&str>)> {
    let (kind, rest) = if let Some(rest) = name.strip_prefix("__session") {
        (Cookie::Session, rest)
    } else if let Some(rest) = name.strip_prefix("__client_uat") {
        (Cookie::ClientUat, rest)
    } else {
        (Cookie::DevBrowser, name.strip_prefix("__clerk_db_jwt")?)
    };
    if rest.is_empty() {
        return Some((kind, None));
    }
    let is_suffix = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
    let suffix =
        rest.strip_prefix('_').filter(|s| s.len() == SUFFIX_LEN && s.bytes().all(is_suffix));
    suffix.map(|suffix| (kind, Some(suffix)))
}

impl<'c> CookieSet<'c> {
    /// The value of the session cookie, unless it is empty.
    pub fn session(&self) -> Option<&'c str> {
        self.session.filter(|text| !text.is_empty())
    }

    fn client_uat(&self) -> Option<&'c str> {
        self.client_uat.filter(|text| !text.is_empty())
    }

    fn made_at(&self) -> f64 {
        self.token.as_ref().and_then(|token| number(token.claims.iat.as_ref())).unwrap_or(0.0)
    }
}

impl Choice<'_> {
    /// The token of the session, or why there is none.
    pub fn choose<'s, 'c>(
        &self,
        plain: &'s CookieSet<'c>,
        suffixed: &'s CookieSet<'c>,
    ) -> Result<(&'s Token<'c>, Chosen), SessionError> {
        let (set, chosen) = if self.counts_suffixed(plain, suffixed) {
            (suffixed, Chosen::Suffixed)
        } else {
            (plain, Chosen::Plain)
        };
        let refused = |reason: &str| Err(SessionError::Refused(reason.into()));
        if self.is_development && set.dev_browser.is_none_or(str::is_empty) {
            return refused(
                "the cookie `__clerk_db_jwt`, which a development instance requires, is missing",
            );
        }
        let since = since(set.client_uat());
        if set.session().is_none() {
            if chosen == Chosen::Suffixed && plain.session().is_some() {
                return refused("`__session` belongs to another Clerk instance");
            }
            return Err(SessionError::Missing);
        }
        if since == 0.0 && !self.trusts_session_alone {
            return refused("`__client_uat` has no time of a sign-in: the user is not signed in");
        }
        let Some(token) = &set.token else { return refused("it is not a JSON Web Token") };
        match number(token.claims.iat.as_ref()) {
            Some(made) if made < since => {
                refused("it is older than the last sign-in or sign-out (`__client_uat`)")
            }
            _ => Ok((token, chosen)),
        }
    }

    /// Whether the cookies with the suffix are used instead of those without.
    fn counts_suffixed(&self, plain: &CookieSet<'_>, suffixed: &CookieSet<'_>) -> bool {
        if plain.session().is_some() {
            // A malformed plain session is chosen, so that the caller rejects it.
            let Some(token) = plain.token.as_ref().filter(|token| has_issuer(token)) else {
                return false;
            };
            if !self.issuer.made(token) {
                return true;
            }
        }
        let (since, plain_since) = (suffixed.client_uat(), plain.client_uat());
        if since.is_none() && suffixed.session().is_none() {
            return false;
        }
        let (is_out, plain_is_out) = (since == Some("0"), plain_since == Some("0"));
        if !is_out && !plain_is_out && plain.made_at() > suffixed.made_at() {
            return false;
        }
        if is_out && !plain_is_out {
            return false;
        }
        if self.is_development && !is_out && plain_is_out && self.is_expired(suffixed) {
            return false;
        }
        since.is_some()
    }

    fn is_expired(&self, set: &CookieSet<'_>) -> bool {
        let expires = set.token.as_ref().and_then(|token| number(token.claims.exp.as_ref()));
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact in 53 bits")]
        expires.is_some_and(|expires| expires <= self.now.timestamp() as f64)
    }
}

impl Issuer<'_> {
    fn made(self, token: &Token<'_>) -> bool {
        let Some(named) = token.claims.issuer() else { return matches!(self, Self::Unknown) };
        match self {
            Self::Of(instance) => instance.is_named_by(named),
            Self::Is(issuer) => issuer == named,
            Self::OneOf(issuers) => issuers.iter().any(|issuer| issuer == named),
            Self::Unknown => true,
        }
    }
}

fn has_issuer(token: &Token<'_>) -> bool {
    match &token.claims.iss {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(iss)) => !iss.is_empty(),
        Some(Value::Number(iss)) => iss.as_f64() != Some(0.0),
        Some(Value::Bool(true) | Value::Array(_) | Value::Object(_)) => true,
    }
}

fn number(claim: Option<&Value>) -> Option<f64> {
    claim.and_then(Value::as_f64)
}

/// The number that a `__client_uat` begins with; 0 if it begins with none.
fn since(client_uat: Option<&str>) -> f64 {
    let text = client_uat.unwrap_or_default().trim_start();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1.0, digits),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = digits.bytes().position(|c| !c.is_ascii_digit()).unwrap_or(digits.len());
    sign * digits[..end].parse().unwrap_or(0.0)
}
