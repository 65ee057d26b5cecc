//! The rules: pure functions that decide from accounts, a catalog and an instant which features a subject may use.
//!
//! This module does not use SQL, protobuf, the clock or async. Read [`decide`] first: it is the core of the service,
//! and all other modules exist to give it the right accounts.

mod access_changes;
mod account;
mod allowed_origin;
mod catalog;
mod changes;
mod decide;
mod explanation;
mod history;
mod item;
pub mod loopback;
mod overrides;
mod packed_items;
mod preview;
mod public_url;
mod question;
mod reason;
mod revision;
mod subject;
mod subject_history;
#[cfg(test)]
mod tests;
mod update;

pub use access_changes::{AccessChange, access_changes};
pub use account::{Account, Standing};
pub use allowed_origin::{AllowedOrigin, InvalidOrigin};
pub use catalog::{
    Catalog, CatalogChange, ChangeKind, FoundBy, InvalidCatalog, InvalidNumbers, Numbers, Plan,
    PlanNames, PlanSet,
};
pub use changes::{ChangeCause, DatedCatalog, FeatureChange, FeatureState, HistoryChange, changes};
pub use decide::{
    Decision, Entitlement, PreparedAccounts, Step, StepKind, Verdict, decide, denials,
    entitlements, steps,
};
pub use explanation::{EvaluatedState, Explanation};
pub use history::{Observation, Statement, still_used};
pub use item::{Access, Grace, Item, Seats, Status, Until};
pub use overrides::{
    Actor, Amount, Effect, InvalidOverrideId, MAX_OVERRIDE_TEXT, Override, OverrideEnd, OverrideId,
    OverrideNote, OverrideRecord,
};
pub use packed_items::{PackedItems, TooLong};
pub use preview::{OverLimit, PlanPreview, preview};
pub use public_url::{InvalidPublicUrl, PublicUrl};
pub use question::{InvalidSlug, Question, QuestionScope, Slug, Target};
pub use reason::{Denial, Grant, Reason};
pub use revision::{CatalogState, InvalidRevision, Revision};
pub use subject::{InvalidSubject, Kind, Subject, SubjectRef};
pub use subject_history::{Known, SubjectHistory, View, ViewError, ViewedAccount};
pub use update::{
    ObservedItem, Parsed, Payment, PlanName, Snapshot, SubscriptionUpdate, WebhookEvent, summary,
};
