//! The effect of another catalog on the features and limits of all subjects.

use crate::cli::render::counted;
use crate::domain::{self, Account, Catalog, Kind, Subject, Verdict};
use chrono::{DateTime, Utc};
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

/// Subjects that are named as examples of a change.
const MAX_EXAMPLES: usize = 3;

/// The effect of a change of the catalog on the features of all subjects.
#[derive(Default)]
pub(super) struct PlanEffect {
    subjects: usize,
    features: BTreeMap<(Kind, String), FeatureEffect>,
    losers: BTreeSet<Subject>,
}

/// The numbers of subjects for which one feature changes.
#[derive(Default)]
struct FeatureEffect {
    gain: usize,
    lose: usize,
    lose_earlier: usize,
    keep_longer: usize,
    lower_limit: usize,
    higher_limit: usize,
    examples: Vec<Subject>,
}

/// A feature that a subject may use: until when, and its limit.
type Allowed = (Option<DateTime<Utc>>, Option<u64>);

impl PlanEffect {
    /// Adds the changes of one account. Each catalog decides with its own grace.
    pub fn add(&mut self, account: &Account, before: &Catalog, after: &Catalog) {
        let now = Utc::now();
        let (before, after) = (allowed(account, before, now), allowed(account, after, now));
        self.subjects += 1;
        for feature in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
            let (then, now) = (before.get(feature), after.get(feature));
            if then == now {
                continue;
            }
            let key = (account.subject.kind(), feature.clone());
            let effect = self.features.entry(key).or_default();
            if effect.add(then, now) {
                self.losers.insert(account.subject.clone());
            }
            if effect.examples.len() < MAX_EXAMPLES {
                effect.examples.push(account.subject.clone());
            }
        }
    }

    /// The number of subjects that lose something.
    pub fn losers(&self) -> usize {
        self.losers.len()
    }

    pub fn print(&self) {
        for ((kind, feature), effect) in &self.features {
            let counts = [
                (effect.gain, "gain it"),
                (effect.lose, "lose it"),
                (effect.lose_earlier, "lose it earlier than before"),
                (effect.keep_longer, "keep it longer"),
                (effect.lower_limit, "get a lower limit"),
                (effect.higher_limit, "get a higher limit"),
            ];
            let counts = counts.iter().filter(|(count, _)| *count > 0);
            let counts: Vec<_> = counts.map(|(count, what)| format!("{count} {what}")).collect();
            let examples: Vec<_> = effect.examples.iter().map(Subject::as_str).collect();
            say!("{kind} {feature}: {}. Examples: {}", counts.join(", "), examples.join(", "));
        }
        say!(
            "{} compared, of which {} would lose a feature, some of its time, or a part of its limit",
            counted(self.subjects, "subject"),
            self.losers()
        );
    }
}

impl FeatureEffect {
    /// Counts the change of one subject; returns whether it loses something.
    fn add(&mut self, then: Option<&Allowed>, now: Option<&Allowed>) -> bool {
        let (Some((until, limit)), Some((until_now, limit_now))) = (then, now) else {
            let count = if now.is_some() { &mut self.gain } else { &mut self.lose };
            *count += 1;
            return now.is_none();
        };
        let end = |until: &Option<DateTime<Utc>>| until.unwrap_or(DateTime::<Utc>::MAX_UTC);
        let size = |limit: &Option<u64>| (limit.is_none(), *limit);
        let ends = end(until_now).cmp(&end(until));
        let limits = size(limit_now).cmp(&size(limit));
        for (change, less, more) in [
            (ends, &mut self.lose_earlier, &mut self.keep_longer),
            (limits, &mut self.lower_limit, &mut self.higher_limit),
        ] {
            match change {
                Ordering::Less => *less += 1,
                Ordering::Greater => *more += 1,
                Ordering::Equal => {}
            }
        }
        ends.is_lt() || limits.is_lt()
    }
}

/// The features that a subject may use.
fn allowed(account: &Account, catalog: &Catalog, now: DateTime<Utc>) -> BTreeMap<String, Allowed> {
    let found = domain::entitlements(account, catalog, now).into_iter();
    let allowed = found.filter_map(|found| match found.decision.verdict {
        Verdict::Allowed { limit, .. } => {
            Some((found.feature.to_string(), (found.decision.valid_until, limit)))
        }
        Verdict::Denied { .. } => None,
    });
    allowed.collect()
}
