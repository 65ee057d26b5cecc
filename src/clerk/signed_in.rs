//! The result of verifying a session.

use crate::domain::Subject;

/// The user of a valid session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedIn {
    /// The signed-in user.
    pub user: Subject,
    /// The organization that is active in the session.
    pub organization: Option<Subject>,
}

/// Why a request has no valid session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The request has no token.
    #[error(
        "there is no session token: sign in, and send it as a Bearer token or in Clerk's cookie"
    )]
    Missing,
    /// The token is forged, expired, or issued for another application.
    #[error("the session token is refused: {0}")]
    Refused(String),
    /// The keys to verify the token are not available.
    #[error("the session token cannot be verified: {0}")]
    NoKeys(String),
}
