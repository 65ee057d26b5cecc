//! What can go wrong with the database, by what can be done about it.

use std::time::Duration;

/// A failure of the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached or is too busy; the same request may work later.
    #[error("the database is unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// It did not answer in time; whether the work was done is unknown.
    #[error("the database did not answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// It refused the data; the same data will be refused again.
    #[error("the database refused the data")]
    Refused(#[source] sqlx::Error),
    /// It holds a row that this service cannot have written.
    #[error("the database holds an impossible row: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// Whether the same request may work later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Timeout(_))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(answer) => match answer.code().as_deref() {
                // data exception, integrity constraint violation
                Some(code) if code.starts_with("22") || code.starts_with("23") => {
                    Self::Refused(error)
                }
                _ => Self::Unavailable(error),
            },
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::Decode(_)
            | sqlx::Error::TypeNotFound { .. } => Self::Corrupt(error.to_string()),
            _ => Self::Unavailable(error),
        }
    }
}
