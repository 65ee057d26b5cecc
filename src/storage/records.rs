//! Reads everything from which an earlier answer follows: histories of subjects and states of the catalog.

use super::{
    CatalogPoint, CatalogVersion, Store, StoreError, catalog_history, observations, pool::TxOutcome,
};
use crate::domain::{Subject, SubjectHistory};
use sqlx::PgConnection;

/// The records behind the answers to one question.
#[derive(Debug)]
pub struct Records {
    /// The history of each subject, in the order of the request.
    pub histories: Vec<SubjectHistory>,
    /// The catalog at each point, in the order of the request; `None` if it never had this state.
    pub catalogs: Vec<Option<CatalogVersion>>,
}

impl Store {
    /// Reads the histories of subjects, and the catalog at some points, in one snapshot: a retention that runs meanwhile
    /// could remove observations after their completeness was read.
    pub async fn records(
        &self,
        subjects: &[Subject],
        points: &[CatalogPoint],
    ) -> Result<Records, StoreError> {
        let read = async |tx: &mut PgConnection| {
            sqlx::raw_sql("set transaction isolation level repeatable read, read only")
                .execute(&mut *tx)
                .await?;
            let (mut histories, mut catalogs) = (Vec::new(), Vec::new());
            for subject in subjects {
                histories.push(observations::history(tx, subject).await?);
            }
            for point in points {
                catalogs.push(catalog_history::load(tx, *point).await?);
            }
            Ok::<_, StoreError>(TxOutcome::RollBack(Records { histories, catalogs }))
        };
        self.background.transact(read).await
    }
}
