//! `catalog preview`: a subject on another plan.

use crate::{
    check::{PreviewError, SubjectReports},
    cli::render::counted,
    domain::{FeatureChange, FeatureState, Subject},
    replica::Accounts,
    storage::Store,
    telemetry::Telemetry,
};
use anyhow::{Context, anyhow};
use std::{sync::Arc, time::Duration};

pub(super) async fn run(
    store: Arc<Store>,
    subject: &str,
    plan: &str,
    counts: &[(String, u64)],
) -> anyhow::Result<()> {
    let subject = subject.parse::<Subject>().context("SUBJECT")?;
    let telemetry = Telemetry::default();
    let accounts = Accounts::new(store.clone(), 0, Duration::ZERO, Duration::ZERO, telemetry);
    accounts.reload_catalog().await?;
    let reports = SubjectReports::new(store, Arc::new(accounts));
    let counts = counts.iter().cloned().collect();
    let preview = reports.preview(&subject, plan, &counts).await;
    let preview = preview.map_err(|error| match error {
        PreviewError::UnknownPlan(..) => anyhow!("`{plan}` {error}"),
        PreviewError::UnknownFeature(..) | PreviewError::InvalidFeature(_) => {
            anyhow!("--count {error}")
        }
        PreviewError::SubjectDeleted => anyhow!("{subject} {error}"),
        PreviewError::TooLong(_) | PreviewError::Store(_) => error.into(),
    })?;
    for change in &preview.changes {
        say!("{}", line(change));
    }
    for over in &preview.over {
        say!("! {}: {} in use, and {} would be allowed", over.feature, over.count, over.limit);
    }
    let (changes, over) = (preview.changes.len(), preview.over.len());
    let changes = counted(changes, "feature");
    say!("{subject} on {plan}: {changes} would change, {over} would be over the limit");
    Ok(())
}

fn line(FeatureChange { feature, before, after }: &FeatureChange) -> String {
    let limit = |state: &FeatureState| match state.limit {
        Some(limit) => format!("limit {limit}"),
        None => "no limit".into(),
    };
    match (before.allowed, after.allowed) {
        (false, _) => format!("+ {feature}: {}", limit(after)),
        (true, false) => format!("- {feature}"),
        (true, true) => format!("~ {feature}: {} -> {}", limit(before), limit(after)),
    }
}
