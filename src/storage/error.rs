//! Errors of the database, classified by how a caller can react.

use sqlx::error::DatabaseError;
use std::{borrow::Cow, time::Duration};

/// A failure of the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or is too busy. The same request may succeed later.
    #[error("the database is unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// The database rejects the login, or does not exist. A running service retries, because a password may be rotated
    /// or a server restored at the moment; a starting service exits with this error.
    #[error("the database rejects the login or does not exist: check DATABASE_URL and pg_hba.conf")]
    AccessDenied(#[source] sqlx::Error),
    /// The database did not answer in time. Whether the work was done is unknown.
    #[error("the database did not answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The database rejected the data, and will reject the same data again.
    #[error("the database rejected the data")]
    Rejected(#[source] sqlx::Error),
    /// The database rejected a statement because a right, a table or a column is missing. Retrying is useless until
    /// somebody changes the database or `DATABASE_URL`.
    #[error(
        "the database rejected a statement, because the schema does not match this build or the role lacks a right: \
         `entitlements doctor` says which"
    )]
    Misconfigured(#[source] sqlx::Error),
    /// A row has a value that this service never writes, or a required row is missing.
    #[error("the database holds an impossible row: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::AccessDenied(_) | Self::Timeout(_) => true,
            Self::Rejected(_) | Self::Misconfigured(_) | Self::Corrupt(_) => false,
        }
    }

    /// The failure for callers, without internal details.
    #[must_use]
    pub fn public_reason(&self) -> &'static str {
        match self {
            Self::Unavailable(_) | Self::AccessDenied(_) | Self::Timeout(_) => {
                "the database is unavailable"
            }
            Self::Misconfigured(_) => {
                "the database rejects a query of this service; see the log of the service"
            }
            Self::Rejected(_) | Self::Corrupt(_) => {
                "the database holds a value that this service cannot read; see the log of the service"
            }
        }
    }

    /// Whether the connection that returned this error, and others of its age, may be dead or may lead to a server that
    /// is no longer the primary.
    pub(super) fn is_about_the_connection(&self) -> bool {
        match self {
            Self::Rejected(_) | Self::Misconfigured(_) | Self::Corrupt(_) => false,
            Self::AccessDenied(_) | Self::Timeout(_) => true,
            Self::Unavailable(error) => error.as_database_error().is_none_or(|answer| {
                let code = answer.code().unwrap_or_default();
                // A cancelled statement, a rollback and a lack of resources do not end a connection; the rest of
                // class 57 does.
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

/// The error variant for an SQLSTATE that the server returned.
/// Source: <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn of_answer(answer: &dyn DatabaseError) -> fn(sqlx::Error) -> StoreError {
    let code = answer.code().unwrap_or(Cow::Borrowed(""));
    match (class(&code), &*code) {
        // data exception, integrity constraint violation, program limit exceeded
        ("22" | "23" | "54", _) => StoreError::Rejected,
        // invalid authorization, invalid catalog name: there is no such database
        ("28" | "3D", _) => StoreError::AccessDenied,
        // duplicate prepared statement, as behind a pooler that was added after the start
        (_, "42P05") => StoreError::Unavailable,
        // syntax error or access rule violation, invalid schema name, and other faults of the
        // database's objects
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
