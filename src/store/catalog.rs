//! The versions of the catalog: numbered, never changed, the highest is in force.

use super::StoreError;
use crate::access::Catalog;
use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection};

/// A version of the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its number: higher is newer.
    pub number: u64,
    /// What it says.
    pub catalog: Catalog,
}

/// What became of putting a catalog in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It is in force now, as this version.
    New(u64),
    /// It was in force already.
    InForce(u64),
    /// It was in force as `then`, and a later version, `now`, has replaced it: it stays replaced.
    Replaced {
        /// The version with this content.
        then: u64,
        /// The version in force.
        now: u64,
    },
}

/// The version in force.
pub(super) async fn newest(db: &mut PgConnection) -> Result<Option<Version>, StoreError> {
    let row = sqlx::query!("select number, content from catalog order by number desc limit 1")
        .fetch_optional(db)
        .await?;
    row.map(|row| {
        let catalog = Catalog::from_json(&row.content)
            .map_err(|e| StoreError::Corrupt(format!("catalog {}: {e}", row.number)))?;
        Ok(Version { number: number(row.number)?, catalog })
    })
    .transpose()
}

/// Adds a version, unless one with this content exists.
pub(super) async fn apply(
    db: &mut PgConnection,
    catalog: &Catalog,
    source: &str,
) -> Result<Applied, StoreError> {
    let content = catalog.to_json();
    let sha256 = Sha256::digest(&content);
    let mut tx = db.begin().await?;
    sqlx::query!("lock table catalog in exclusive mode").execute(&mut *tx).await?;
    let known = sqlx::query!(
        "select max(number) as now, max(number) filter (where content_sha256 = $1) as same from catalog",
        &*sha256
    )
    .fetch_one(&mut *tx)
    .await?;
    if let (Some(now), Some(same)) = (known.now, known.same) {
        let (now, then) = (number(now)?, number(same)?);
        return Ok(if then == now {
            Applied::InForce(now)
        } else {
            Applied::Replaced { then, now }
        });
    }
    let new = sqlx::query_scalar!(
        "
        with logged as (insert into change (subject) values (null))
        insert into catalog (content, content_sha256, source) values ($1, $2, $3) returning number
        ",
        content,
        &*sha256,
        source
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Applied::New(number(new)?))
}

fn number(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::Corrupt(format!("catalog number {number}")))
}
