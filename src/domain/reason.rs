//! The reasons to allow and to deny.

/// Why a target is allowed or denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Why it is allowed.
    Grant(Grant),
    /// Why it is denied.
    Denial(Denial),
}

/// Why a target is allowed. Of grants that last equally long, the greater reason is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grant {
    /// No item grants access, and the default plan includes the target.
    DefaultPlan,
    /// The catalog does not have the plan of the live item, and the default plan, which stands in, includes the target.
    DefaultForUnknownPlan,
    /// The item is canceled, and its period is not over.
    CanceledButPaid,
    /// A payment failed, and the grace is not over yet.
    PastDueInGrace,
    /// The period is over, and Clerk has announced neither its renewal nor its end.
    RenewalOverdue,
    /// The item is in a free trial.
    Trial,
    /// The item is active.
    Plan,
    /// An operator's override grants the feature.
    OverrideGrants,
}

/// Why a target is denied. Of several reasons, the greatest is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Denial {
    /// The subject holds no plan, and there is no default plan.
    NoSubscription,
    /// The plans that the subject holds do not include the target.
    NotInPlan,
    /// The item was abandoned before it began.
    Abandoned,
    /// The item has ended.
    Ended,
    /// The item was canceled or not renewed, and its period is over.
    PeriodOver,
    /// The free trial is over, and no payment followed.
    TrialOver,
    /// The item has not started.
    NotStarted,
    /// The checkout was never completed.
    CheckoutIncomplete,
    /// This service does not know the item's status.
    UnknownStatus,
    /// The catalog does not have the plan.
    UnknownPlan,
    /// A payment failed, and the grace is over.
    PastDue,
    /// Clerk deleted the subject.
    SubjectDeleted,
    /// No plan of the catalog has the feature.
    UnknownFeature,
    /// The scope asks for a kind of subject that the question does not name.
    OutOfScope,
    /// Clerk does not know the scope.
    UnknownScope,
    /// The feature would be allowed, but it is strict, and the account may be outdated.
    Stale,
    /// An operator's override denies the feature.
    OverrideDenies,
}

impl Grant {
    /// All reasons to allow, in ascending order.
    pub const ALL: [Self; 8] = [
        Self::DefaultPlan,
        Self::DefaultForUnknownPlan,
        Self::CanceledButPaid,
        Self::PastDueInGrace,
        Self::RenewalOverdue,
        Self::Trial,
        Self::Plan,
        Self::OverrideGrants,
    ];
}

impl Denial {
    /// All reasons to deny, in ascending order.
    pub const ALL: [Self; 17] = [
        Self::NoSubscription,
        Self::NotInPlan,
        Self::Abandoned,
        Self::Ended,
        Self::PeriodOver,
        Self::TrialOver,
        Self::NotStarted,
        Self::CheckoutIncomplete,
        Self::UnknownStatus,
        Self::UnknownPlan,
        Self::PastDue,
        Self::SubjectDeleted,
        Self::UnknownFeature,
        Self::OutOfScope,
        Self::UnknownScope,
        Self::Stale,
        Self::OverrideDenies,
    ];
}
