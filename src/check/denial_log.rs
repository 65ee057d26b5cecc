//! Logs a sample of denied checks with subject and reason, for support. Off by default (`ENTITLEMENTS_LOG_DENIALS`).

use super::Subjects;
use crate::{
    domain::{Explanation, Kind, Question, Reason, SubjectRef, Target},
    telemetry::{SampleRate, Sampler},
};

/// Logs a sample of the denials; `None`: none, at the cost of one branch.
#[derive(Debug)]
pub(super) struct DenialLog(Option<Sampler>);

impl DenialLog {
    pub(super) fn new(share: Option<SampleRate>) -> Self {
        Self(share.map(Sampler::new))
    }

    /// Logs the answer if it is a denial and the sampler takes it.
    pub(super) fn note(
        &self,
        subjects: Subjects<'_>,
        question: &Question<'_>,
        answer: &Explanation<'_>,
    ) {
        if let (Some(sampler), Reason::Denial(reason)) = (&self.0, answer.reason)
            && sampler.takes()
        {
            let of = |kind| subjects.iter().find(|id| id.kind() == kind).map(SubjectRef::as_str);
            let (user, organization) = (of(Kind::User), of(Kind::Organization));
            let (what, wanted) = match question.wanted {
                Target::Feature(feature) => ("feature", feature),
                Target::Plan(plan) => ("plan", plan),
            };
            let (reason, plan) = (reason.name(), answer.plan);
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
