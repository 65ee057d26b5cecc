//! Why something is allowed, and why it is denied.

/// Why something is allowed; of equally long grants the greater reason is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grant {
    /// No item is live, and the default plan has it.
    DefaultPlan,
    /// Canceled, and the period is not over.
    CanceledButPaid,
    /// A payment failed, and the grace is not over.
    PastDueInGrace,
    /// The period is over, and neither renewal nor end was announced.
    RenewalOverdue,
    /// In a free trial.
    Trial,
    /// An active item.
    Plan,
    /// An operator granted it.
    OverrideGrants,
}

/// Why something is denied; of several reasons the greatest is the most telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Denial {
    /// No plan is held and there is no default plan.
    NoSubscription,
    /// The plans held do not have it.
    NotInPlan,
    /// The item was given up before it began.
    Abandoned,
    /// The item has ended.
    Ended,
    /// Canceled or unrenewed, and the period is over.
    PeriodOver,
    /// A free trial is over, and nothing was paid.
    TrialOver,
    /// The item has not started.
    NotStarted,
    /// The checkout was never completed.
    CheckoutIncomplete,
    /// The item's status is an unknown word.
    UnknownStatus,
    /// The plan is not in the catalog.
    UnknownPlan,
    /// A payment failed, and the grace is over.
    PastDue,
    /// Clerk deleted the subject.
    SubjectDeleted,
    /// No plan of the catalog has the feature.
    UnknownFeature,
    /// The scope asks for a payer that was not named.
    OutOfScope,
    /// The scope is none that Clerk knows.
    UnknownScope,
    /// It would be allowed, but is strict, and what is known may be outdated.
    Stale,
    /// An operator denied it.
    OverrideDenies,
}

impl Grant {
    /// All of them, in their order.
    pub const ALL: [Self; 7] = [
        Self::DefaultPlan,
        Self::CanceledButPaid,
        Self::PastDueInGrace,
        Self::RenewalOverdue,
        Self::Trial,
        Self::Plan,
        Self::OverrideGrants,
    ];
}

impl Denial {
    /// All of them, in their order.
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
