//! Clerk's plans, as a catalog.

use super::{ReconcileError, Reconciler};
use crate::{
    clerk::Plans,
    domain::{Catalog, ChangeKind},
    storage::{Applied, Author, Origin, PlannedCatalog},
};
/// Clerk's plans, to be put in force as a catalog.
#[derive(Debug)]
pub struct ClerkPlans {
    /// Whether plans that Clerk no longer lists are kept.
    pub author: Author,
    /// The plans.
    pub catalog: Catalog,
    /// The plans in Clerk's list that could not be parsed, with reasons. Their last known versions are kept.
    pub left_out: Vec<String>,
}

impl Reconciler {
    /// Fetches Clerk's plans and puts them in force as a new catalog, if they changed.
    pub(super) async fn refresh(&self) -> Result<(), ReconcileError> {
        let ClerkPlans { author, catalog, .. } = self.clerk_plans(false).await?;
        let PlannedCatalog { now, after } = self.store.planned_catalog(author, &catalog).await?;
        let origin = Origin::service("Clerk");
        if let Applied::New(number) = self.store.apply_catalog(author, &catalog, origin).await? {
            let [added, removed, changed] = ChangeKind::counts(&now.catalog.changes(&after));
            tracing::info!(
                number,
                source = origin.source,
                added,
                removed,
                changed,
                "a new catalog is in force"
            );
        }
        Ok(())
    }

    /// Fetches Clerk's plans. A plan that Clerk no longer lists is to be kept as retired, unless `remove_retired`.
    pub async fn clerk_plans(&self, remove_retired: bool) -> Result<ClerkPlans, ReconcileError> {
        self.check_instance().await?;
        let trace = self.telemetry.traces.question("ask Clerk for its plans");
        let Plans { catalog, left_out } = trace.run(self.api.plans()).await?;
        drop(trace);
        for why in &left_out {
            tracing::warn!(
                why,
                "a plan in Clerk's list cannot be parsed: its last known version is kept"
            );
        }
        if let (true, Some(why)) = (remove_retired, left_out.first()) {
            return Err(ReconcileError::Unreadable(why.clone()));
        }
        let author =
            if remove_retired { Author::ClerkWithoutRetired(None) } else { Author::Clerk(None) };
        Ok(ClerkPlans { author, catalog, left_out })
    }
}
