//! `catalog preview`: a subject on another plan.

use crate::{
    check::{PreviewError, SubjectReports},
    cli::{
        output::{BAD, Format, GOOD, ProtoJson, WARN, paint, say_json},
        render::counted,
    },
    domain::{FeatureChange, FeatureState, PlanPreview, Subject},
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
    format: Format,
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
    if format == Format::Json {
        let preview = crate::api::preview_response(&preview);
        say_json(&ProtoJson::new().of("PreviewPlanResponse", &preview));
        return Ok(());
    }
    print(&preview, &subject, plan);
    Ok(())
}

fn print(preview: &PlanPreview, subject: &Subject, plan: &str) {
    for change in &preview.changes {
        say!("{}", line(change));
    }
    for over in &preview.over {
        let text = format!(
            "! {}: {} in use, and {} would be allowed",
            over.feature, over.count, over.limit
        );
        say!("{}", paint(BAD, &text));
    }
    let (changes, over) = (preview.changes.len(), preview.over.len());
    let changes = counted(changes, "feature");
    say!("{subject} on {plan}: {changes} would change, {over} would be over the limit");
}

fn line(FeatureChange { feature, before, after }: &FeatureChange) -> String {
    let limit = |state: &FeatureState| match state.limit {
        Some(limit) => format!("limit {limit}"),
        None => "no limit".into(),
    };
    match (before.allowed, after.allowed) {
        (false, _) => paint(GOOD, &format!("+ {feature}: {}", limit(after))),
        (true, false) => paint(BAD, &format!("- {feature}")),
        (true, true) => paint(WARN, &format!("~ {feature}: {} -> {}", limit(before), limit(after))),
    }
}
