//! The credentials of a request, as Clerk's SDK reads them.

use std::{borrow::Cow, fmt};

/// The `Authorization` and `Cookie` fields of a request.
#[derive(Default)]
pub struct Credentials<'c> {
    authorization: Option<Cow<'c, str>>,
    cookies: Option<Cow<'c, str>>,
}

/// Prints no field, because both hold secrets.
impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl<'c> Credentials<'c> {
    /// Reads the credentials from header fields. Repeated fields are joined as the Fetch standard does. Bytes that are
    /// not UTF-8 are replaced, so that the other cookies stay usable.
    pub fn of(fields: impl IntoIterator<Item = (&'c str, &'c [u8])>) -> Self {
        let mut credentials = Self::default();
        for (name, value) in fields {
            let (joined, separator) = if name.eq_ignore_ascii_case("authorization") {
                (&mut credentials.authorization, ", ")
            } else if name.eq_ignore_ascii_case("cookie") {
                (&mut credentials.cookies, "; ")
            } else {
                continue;
            };
            let value = String::from_utf8_lossy(value.trim_ascii());
            match joined {
                None => *joined = Some(value),
                Some(joined) => *joined.to_mut() += &(separator.to_owned() + &value),
            }
        }
        credentials
    }

    /// The token of `Authorization`, after `Bearer` or alone; `None` for another scheme.
    pub(super) fn token(&self) -> Option<&str> {
        let mut words = self.authorization.as_deref()?.split(' ');
        let first = words.next().filter(|first| !first.is_empty())?;
        match words.next().filter(|second| !second.is_empty()) {
            None => Some(first),
            Some(token) if first == "Bearer" => Some(token),
            Some(_) => None,
        }
    }

    /// All cookies, joined to one field.
    pub(super) fn cookies(&self) -> Option<&str> {
        self.cookies.as_deref()
    }
}
