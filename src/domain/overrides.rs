//! Overrides: the exceptions that operators make for one subject, in addition to its plans.
//!
//! A record is never changed: an extension or a correction is a new record that replaces an older one, and the end of a
//! record is noted once. So the overrides of any time can be derived.

use super::{Catalog, Question, Slug, Subject, Target, Until};
use chrono::{DateTime, Utc};
use std::{fmt, str::FromStr};
use uuid::Uuid;

/// The id of an override: a UUID of version 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OverrideId(pub Uuid);

impl fmt::Display for OverrideId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for OverrideId {
    type Err = InvalidOverrideId;

    fn from_str(text: &str) -> Result<Self, InvalidOverrideId> {
        text.parse().map(Self).map_err(|_| InvalidOverrideId)
    }
}

/// The error for a text that is not the id of an override.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be the id of an override, a UUID such as 0197f4c1-8f60-7cc3-98c4-dc0c0c07398f")]
pub struct InvalidOverrideId;

/// The part of an override that decisions use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Identifies the override.
    pub id: OverrideId,
    /// The grant or denial.
    pub effect: Effect,
    /// The first instant at which it is in force; `None`: it was in force when it was set, whatever the clock of a replica
    /// says.
    pub from: Option<DateTime<Utc>>,
    /// The instant from which on it is no longer in force.
    pub until: Until,
    /// When it was set. Of several overrides that set an exact limit, the newest counts.
    pub set_at: DateTime<Utc>,
}

/// The effect of an override.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Denies a feature, whatever grants it.
    DenyFeature(Slug),
    /// Denies a plan, and each feature that the plan has, whatever grants it.
    DenyPlan(Slug),
    /// Grants a feature.
    GrantFeature(Slug, Amount),
    /// Grants a plan, as a live item does: with all that it has, and instead of the default plan.
    GrantPlan(Slug),
}

/// The limit that comes with a granted feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// The feature has no limit in any plan.
    Plain,
    /// No limit, although plans limit the feature.
    Unlimited,
    /// This limit, unless another grant has a larger one.
    AtLeast(u64),
    /// This limit, even if another grant has a larger one.
    Exactly(u64),
}

impl Amount {
    /// The limit; `None`: no limit.
    #[must_use]
    pub fn limit(self) -> Option<u64> {
        match self {
            Self::Plain | Self::Unlimited => None,
            Self::AtLeast(limit) | Self::Exactly(limit) => Some(limit),
        }
    }
}

impl Effect {
    /// The feature or the plan that is granted or denied.
    #[must_use]
    pub fn target(&self) -> Target<'_> {
        match self {
            Self::DenyFeature(feature) | Self::GrantFeature(feature, _) => {
                Target::Feature(feature.as_str())
            }
            Self::DenyPlan(plan) | Self::GrantPlan(plan) => Target::Plan(plan.as_str()),
        }
    }

    /// The feature; `None`: the effect is on a plan.
    #[must_use]
    pub fn feature(&self) -> Option<&Slug> {
        match self {
            Self::DenyFeature(feature) | Self::GrantFeature(feature, _) => Some(feature),
            Self::DenyPlan(_) | Self::GrantPlan(_) => None,
        }
    }

    /// Whether the effect can change the answer to a question: it is about the wanted target, or about a plan.
    #[must_use]
    pub fn may_concern(&self, question: &Question<'_>) -> bool {
        self.feature().is_none() || self.target() == question.wanted
    }

    /// The plan; `None`: the effect is on a feature.
    #[must_use]
    pub fn plan(&self) -> Option<&Slug> {
        match self {
            Self::DenyPlan(plan) | Self::GrantPlan(plan) => Some(plan),
            Self::DenyFeature(_) | Self::GrantFeature(..) => None,
        }
    }
}

impl Override {
    /// Whether the override is in force at `now`.
    #[must_use]
    pub fn is_in_force(&self, now: DateTime<Utc>) -> bool {
        self.from.is_none_or(|from| from <= now) && self.until > Until::Instant(now)
    }

    /// The beginning.
    #[must_use]
    pub fn begins_at(&self) -> DateTime<Utc> {
        self.from.unwrap_or(self.set_at)
    }

    /// Orders overrides by their time of setting; ids break ties.
    #[must_use]
    pub fn age(&self) -> (DateTime<Utc>, OverrideId) {
        (self.set_at, self.id)
    }
}

/// An override with everything that was recorded about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverrideRecord {
    /// The subject.
    pub subject: Subject,
    /// The override.
    pub found: Override,
    /// The people behind it and their reasons.
    pub note: OverrideNote,
    /// The authenticated caller that set it, and the person that the caller named.
    pub set_by: Actor,
    /// The override that this one extends or corrects.
    pub replaces: Option<OverrideId>,
    /// The revision of the subject after it was set.
    pub revision: u64,
    /// Its end before its time; `None`: it was neither ended nor replaced.
    pub end: Option<OverrideEnd>,
}

/// The reasons for an override.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverrideNote {
    /// The person or team that answers for it.
    pub owner: String,
    /// The reason.
    pub reason: String,
    /// A ticket or a contract; may be empty.
    pub reference: String,
}

/// The caller of a change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Actor {
    /// The name of the authenticated caller.
    pub caller: String,
    /// The person on whose behalf the caller acted, as the caller says; may be empty.
    pub on_behalf_of: String,
}

/// The end of an override by an operator, a replacement or the deletion of its subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverrideEnd {
    /// When it ended.
    pub at: DateTime<Utc>,
    /// The caller that ended it.
    pub by: Actor,
    /// The reason.
    pub reason: String,
    /// The override that replaced it, if one did.
    pub replaced_by: Option<OverrideId>,
    /// The revision of the subject after the end.
    pub revision: u64,
}

/// The longest texts of a record, in bytes.
pub const MAX_OVERRIDE_TEXT: usize = 500;

impl Catalog {
    /// Whether a plan of either kind limits a feature.
    #[must_use]
    pub fn limits(&self, feature: &str) -> bool {
        self.all_plans().any(|plan| matches!(plan.features.get(feature), Some(Some(_))))
    }
}
