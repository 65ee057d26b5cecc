//! The effect of another catalog on the features, limits and plans of all subjects.

use crate::cli::{output::Table, render::counted};
use crate::domain::{AccessChange, Account, Catalog, Kind, Subject, access_changes};
use chrono::Utc;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Subjects that are named as examples of a change.
const MAX_EXAMPLES: usize = 3;

/// The effect of a change of the catalog on all subjects.
#[derive(Default)]
pub(super) struct CatalogEffect {
    subjects: usize,
    targets: BTreeMap<(Kind, String), TargetEffect>,
    winners: usize,
    losers: usize,
    /// The gains and losses of a user and an organization without any record: they are in no table, and may have the default
    /// plan.
    unrecorded: Vec<(Kind, String, AccessChange)>,
    /// The gains and losses of each subject, if they are to be listed.
    by_subject: Option<Vec<SubjectEffect>>,
}

/// The numbers of subjects for which one feature or plan changes, by [`AccessChange`].
#[derive(Default)]
struct TargetEffect {
    counts: [usize; AccessChange::ALL.len()],
    examples: Vec<Subject>,
}

/// The gains and losses of one subject.
struct SubjectEffect {
    subject: Subject,
    changes: Vec<(String, AccessChange)>,
}

/// The change in a sentence, such as `2 users would lose export`.
fn sentence(who: &str, target: &str, change: AccessChange) -> String {
    match change {
        AccessChange::Gain => format!("{who} would gain {target}"),
        AccessChange::KeepLonger => format!("{who} would keep {target} for longer"),
        AccessChange::HigherLimit => format!("{who} would get a higher limit of {target}"),
        AccessChange::Lose => format!("{who} would lose {target}"),
        AccessChange::LoseEarlier => format!("{who} would lose {target} earlier"),
        AccessChange::LowerLimit => format!("{who} would get a lower limit of {target}"),
    }
}

fn key(change: AccessChange) -> &'static str {
    match change {
        AccessChange::Gain => "gain",
        AccessChange::KeepLonger => "keepLonger",
        AccessChange::HigherLimit => "higherLimit",
        AccessChange::Lose => "lose",
        AccessChange::LoseEarlier => "loseEarlier",
        AccessChange::LowerLimit => "lowerLimit",
    }
}

impl CatalogEffect {
    /// The effect on subjects without any record; the recorded ones are to be added. `lists_subjects`: whether the changes of
    /// each subject are kept.
    pub fn new(before: &Catalog, after: &Catalog, lists_subjects: bool) -> Self {
        let unrecorded = ["user_unrecorded", "org_unrecorded"].into_iter().flat_map(|id| {
            let account = Account::unknown(id.parse().expect("it is the id of a subject"));
            let kind = account.subject.kind();
            let changes = access_changes(&account, before, after, Utc::now()).into_iter();
            changes.map(move |(target, change)| (kind, target, change))
        });
        Self {
            unrecorded: unrecorded.collect(),
            by_subject: lists_subjects.then(Vec::new),
            ..Self::default()
        }
    }

    /// Adds the changes of one account. Each catalog decides with its own grace.
    pub fn add(&mut self, account: &Account, before: &Catalog, after: &Catalog) {
        let changes = access_changes(account, before, after, Utc::now());
        self.subjects += 1;
        self.winners += usize::from(changes.iter().any(|(_, change)| !change.is_loss()));
        self.losers += usize::from(changes.iter().any(|(_, change)| change.is_loss()));
        self.count(&account.subject, &changes);
        if let Some(list) = self.by_subject.as_mut().filter(|_| !changes.is_empty()) {
            list.push(SubjectEffect { subject: account.subject.clone(), changes });
        }
    }

    fn count(&mut self, subject: &Subject, changes: &[(String, AccessChange)]) {
        for (target, change) in changes {
            let effect = self.targets.entry((subject.kind(), target.clone())).or_default();
            effect.counts[*change as usize] += 1;
            if effect.examples.len() < MAX_EXAMPLES && effect.examples.last() != Some(subject) {
                effect.examples.push(subject.clone());
            }
        }
    }

    /// The number of recorded subjects that lose something.
    pub fn losers(&self) -> usize {
        self.losers
    }

    /// Whether subjects without any record lose something: nobody can count them.
    pub fn unrecorded_lose(&self) -> bool {
        self.unrecorded.iter().any(|(.., change)| change.is_loss())
    }

    /// The losses in one line, such as `2 users would lose export, 1 user would get a lower limit of projects`.
    pub fn losses(&self) -> String {
        let recorded = self.targets.iter().flat_map(|((kind, target), effect)| {
            let losses = AccessChange::ALL.into_iter().filter(|change| change.is_loss());
            let losses = losses.map(|change| (change, effect.counts[change as usize]));
            let lost = losses.filter(|(_, count)| *count > 0);
            lost.map(move |(change, n)| sentence(&counted(n, &kind.to_string()), target, change))
        });
        let unrecorded = self.unrecorded.iter().filter(|(.., change)| change.is_loss());
        let unrecorded = unrecorded.map(|(kind, target, change)| {
            sentence(&format!("every {kind} without a record"), target, *change)
        });
        recorded.chain(unrecorded).collect::<Vec<_>>().join(", ")
    }

    pub fn print(&self) {
        let headers = ["for", "feature", "gain", "longer", "higher limit", "lose", "earlier"];
        let headers = [&headers[..], &["lower limit", "examples"]].concat();
        let mut table = Table::new(&headers);
        for ((kind, target), effect) in &self.targets {
            let examples: Vec<_> = effect.examples.iter().map(Subject::as_str).collect();
            let count = |count| if count == 0 { String::new() } else { format!("{count}") };
            let [gain, longer, higher, lose, earlier, lower] = effect.counts.map(count);
            let (kind, target, examples) = (kind.to_string(), target.clone(), examples.join(" "));
            table.push([kind, target, gain, longer, higher, lose, earlier, lower, examples]);
        }
        table.print();
        self.print_subjects();
        for (kind, target, change) in &self.unrecorded {
            say!("{}", sentence(&format!("every {kind} without a record"), target, *change));
        }
        say!(
            "{} compared: {} would gain, {} would lose a feature, a plan, some of its time, or a part of its limit",
            counted(self.subjects, "subject"),
            self.winners,
            self.losers
        );
    }

    fn print_subjects(&self) {
        let mut table = Table::new(&["subject", "would gain", "would lose"]);
        for SubjectEffect { subject, changes } in self.by_subject.iter().flatten() {
            let of = |is_loss: bool| {
                let changes = changes.iter().filter(|(_, change)| change.is_loss() == is_loss);
                let texts = changes.map(|(target, change)| match change {
                    AccessChange::Gain | AccessChange::Lose => target.clone(),
                    AccessChange::KeepLonger => format!("{target} (for longer)"),
                    AccessChange::LoseEarlier => format!("{target} (earlier)"),
                    AccessChange::HigherLimit | AccessChange::LowerLimit => {
                        format!("{target} (limit)")
                    }
                });
                texts.collect::<Vec<_>>().join(", ")
            };
            table.push([subject.to_string(), of(false), of(true)]);
        }
        table.print();
    }

    pub fn json(&self) -> Value {
        let targets = self.targets.iter().map(|((kind, target), effect)| {
            let counts = AccessChange::ALL.map(|c| (key(c), effect.counts[c as usize]));
            let counts = counts.into_iter().collect::<BTreeMap<_, _>>();
            let examples: Vec<_> = effect.examples.iter().map(Subject::as_str).collect();
            json!({ "kind": kind.to_string(), "feature": target, "counts": counts, "examples": examples })
        });
        let unrecorded = self.unrecorded.iter().map(|(kind, target, change)| {
            json!({ "kind": kind.to_string(), "feature": target, "change": key(*change) })
        });
        let mut json = json!({
            "compared": self.subjects,
            "gaining": self.winners,
            "losing": self.losers,
            "features": targets.collect::<Vec<_>>(),
            "withoutRecord": unrecorded.collect::<Vec<_>>(),
        });
        if let Some(list) = &self.by_subject {
            let changes = |effect: &SubjectEffect| {
                let changes = effect.changes.iter();
                let changes =
                    changes.map(|(target, c)| json!({ "feature": target, "change": key(*c) }));
                json!({ "subject": effect.subject.as_str(), "changes": changes.collect::<Vec<_>>() })
            };
            json["subjects"] = list.iter().map(changes).collect();
        }
        json
    }
}
