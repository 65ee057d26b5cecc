//! Some denials in the log, where somebody asked for that: support sees who was denied what, and why.

use super::Payers;
use crate::{
    domain::{Decision, Id, Kind, Question, Verdict, Wanted},
    telemetry::{Sampler, Share},
};

/// Logs a share of the denials; without one, it costs a branch.
#[derive(Debug)]
pub(super) struct Denials(Option<Sampler>);

impl Denials {
    pub(super) fn new(share: Option<Share>) -> Self {
        Self(share.map(Sampler::new))
    }

    /// Takes note of a decision about these subjects.
    pub(super) fn note(&self, asked: Payers<'_>, question: &Question<'_>, decision: &Decision<'_>) {
        if let (Some(sampler), Verdict::Denied { reason, plan, .. }) = (&self.0, decision.verdict)
            && sampler.takes()
        {
            let of = |kind| asked.iter().find(|id| id.kind() == kind).map(Id::as_str);
            let (user, organization) = (of(Kind::User), of(Kind::Organization));
            let (what, wanted) = match question.wanted {
                Wanted::Feature(feature) => ("feature", feature),
                Wanted::Plan(plan) => ("plan", plan),
            };
            let reason = reason.name();
            tracing::info!(
                user,
                organization,
                wanted,
                reason,
                plan,
                "denied the {what} {wanted}: {reason}"
            );
        }
    }
}
