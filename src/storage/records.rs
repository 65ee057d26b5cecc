//! Reads everything from which an earlier answer follows: histories of subjects and states of the catalog.

use super::{CatalogPoint, CatalogVersion, Store, StoreError, catalog_history, observations};
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
    /// Reads the histories of subjects, and the catalog at some points. Each history is read in one snapshot. The catalogs
    /// need no common snapshot with it: a version and a plan name never change.
    pub async fn records(
        &self,
        subjects: &[Subject],
        points: &[CatalogPoint],
    ) -> Result<Records, StoreError> {
        let read = async |db: &mut PgConnection| {
            let (mut histories, mut catalogs) = (Vec::new(), Vec::new());
            for subject in subjects {
                histories.push(observations::history(db, subject).await?);
            }
            for point in points {
                catalogs.push(catalog_history::load(db, *point).await?);
            }
            Ok::<_, StoreError>(Records { histories, catalogs })
        };
        self.background.run(read).await
    }
}
