//! What can go wrong with the database, by what can be done about it.

use sqlx::error::DatabaseError;
use std::{borrow::Cow, time::Duration};

/// A failure of the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached or is too busy; the same request may work later.
    #[error("the database is unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// It does not let this service in, or there is no such database. A running service asks again, because a password
    /// is being replaced or a server restored; one that starts ends with this error.
    #[error("the database does not let this service in: check DATABASE_URL and pg_hba.conf")]
    NotLetIn(#[source] sqlx::Error),
    /// It did not answer in time; whether the work was done is unknown.
    #[error("the database did not answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// It refused the data; the same data will be refused again.
    #[error("the database refused the data")]
    Refused(#[source] sqlx::Error),
    /// It refuses what this service does: a right, a table or a column is missing. The same request will be refused
    /// until somebody changes the database or `DATABASE_URL`.
    #[error(
        "the database refuses what this service does, because its schema or the rights of the role do not fit: \
         `entitlements doctor` says which"
    )]
    Misconfigured(#[source] sqlx::Error),
    /// It holds a row that this service cannot have written.
    #[error("the database holds an impossible row: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// Whether the same request may work later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::NotLetIn(_) | Self::Timeout(_) => true,
            Self::Refused(_) | Self::Misconfigured(_) | Self::Corrupt(_) => false,
        }
    }

    /// Whether the connection that it came from, and others of its age, may be dead or lead to a server that is no
    /// longer the primary.
    pub(super) fn is_about_the_connection(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Misconfigured(_) | Self::Corrupt(_) => false,
            Self::NotLetIn(_) | Self::Timeout(_) => true,
            Self::Unavailable(error) => error.as_database_error().is_none_or(|answer| {
                let code = answer.code().unwrap_or_default();
                // A cancelled statement and a lack of something end no connection; the rest of class 57 does.
                !(code == "57014" || ["40", "53", "55"].contains(&class(&code)))
            }),
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(answer) => of_answer(&**answer)(error),
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::Decode(_)
            | sqlx::Error::TypeNotFound { .. } => Self::Corrupt(error.to_string()),
            _ => Self::Unavailable(error),
        }
    }
}

/// What an answer of the server means, by its SQLSTATE.
/// Source: <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn of_answer(answer: &dyn DatabaseError) -> fn(sqlx::Error) -> StoreError {
    let code = answer.code().unwrap_or(Cow::Borrowed(""));
    match (class(&code), &*code) {
        // data exception, integrity constraint violation, program limit exceeded
        ("22" | "23" | "54", _) => StoreError::Refused,
        // invalid authorization, invalid catalog name: there is no such database
        ("28" | "3D", _) => StoreError::NotLetIn,
        // duplicate prepared statement, as behind a pooler that was put in between
        (_, "42P05") => StoreError::Unavailable,
        // syntax error or access rule violation, invalid schema name, and what else is wrong
        // with the database's objects
        ("03" | "09" | "0L" | "0P" | "2F" | "38" | "39" | "3B" | "3F" | "42" | "44", _) => {
            StoreError::Misconfigured
        }
        // connection, transaction state (a read-only primary), rollback, resources, locks, operator, system, internal
        _ => StoreError::Unavailable,
    }
}

/// The first two characters of an SQLSTATE.
fn class(code: &str) -> &str {
    code.get(..2).unwrap_or_default()
}
