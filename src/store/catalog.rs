//! The versions of the catalog: numbered, never changed, the highest is in force.

use super::{StoreError, lane::End};
use crate::access::Catalog;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// A version of the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its number: higher is newer.
    pub number: u64,
    /// What it says.
    pub catalog: Catalog,
    /// Where what is new in it came from.
    pub source: String,
    /// Since when it is, or was, in force.
    pub applied_at: DateTime<Utc>,
}

impl Version {
    /// What is in force before there is any version: nothing.
    #[must_use]
    pub fn none() -> Self {
        let (catalog, source) = (Catalog::default(), String::new());
        Self { number: 0, catalog, source, applied_at: DateTime::UNIX_EPOCH }
    }
}

/// Who says what is in a catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// A file. One that was in force and was replaced does not come back by itself.
    File,
    /// A file that an operator puts in force, whatever was before.
    Operator,
    /// Clerk's Backend API, which always tells how things are now.
    Clerk,
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
        /// The last version with this content.
        then: u64,
        /// The version in force.
        now: u64,
    },
}

struct Row {
    number: i64,
    file: Option<String>,
    clerk: Option<String>,
    source: String,
    applied_at: DateTime<Utc>,
}

impl Row {
    fn version(self) -> Result<Version, StoreError> {
        let parse = |text: Option<String>| {
            let catalog = text.map(|text| Catalog::from_json(&text)).transpose();
            catalog.map_err(|e| StoreError::Corrupt(format!("catalog {}: {e}", self.number)))
        };
        let (file, clerk) = (parse(self.file)?.unwrap_or_default(), parse(self.clerk)?);
        Ok(Version {
            number: number(self.number)?,
            catalog: file.over(clerk.unwrap_or_default()),
            source: self.source,
            applied_at: self.applied_at,
        })
    }
}

/// The version in force.
pub(super) async fn newest(db: &mut PgConnection) -> Result<Option<Version>, StoreError> {
    let row = sqlx::query_as!(Row, "select * from catalog order by number desc limit 1");
    row.fetch_optional(db).await?.map(Row::version).transpose()
}

/// All versions, newest first, at most so many.
pub(super) async fn history(db: &mut PgConnection, limit: i64) -> Result<Vec<Version>, StoreError> {
    let rows = sqlx::query_as!(Row, "select * from catalog order by number desc limit $1", limit);
    rows.fetch_all(db).await?.into_iter().map(Row::version).collect()
}

/// What would be in force if this author said this.
pub(super) async fn planned(
    db: &mut PgConnection,
    author: Author,
    catalog: Catalog,
) -> Result<Catalog, StoreError> {
    let row = sqlx::query!("select file, clerk from catalog order by number desc limit 1");
    let row = row.fetch_optional(db).await?;
    let (file, clerk) = row.map(|row| (row.file, row.clerk)).unwrap_or_default();
    let parse = |text: Option<String>| {
        let catalog = text.map(|text| Catalog::from_json(&text)).transpose();
        let catalog = catalog.map_err(|e| StoreError::Corrupt(format!("catalog: {e}")))?;
        Ok::<_, StoreError>(catalog.unwrap_or_default())
    };
    Ok(match author {
        Author::File | Author::Operator => catalog.over(parse(clerk)?),
        Author::Clerk => parse(file)?.over(catalog),
    })
}

/// Adds a version in which this author says something new.
pub(super) async fn apply(
    tx: &mut PgConnection,
    author: Author,
    catalog: &Catalog,
    source: &str,
) -> Result<End<Applied>, StoreError> {
    let content = catalog.to_json();
    sqlx::query!("lock table catalog in exclusive mode").execute(&mut *tx).await?;
    let newest =
        sqlx::query!("select number, file, clerk from catalog order by number desc limit 1")
            .fetch_optional(&mut *tx)
            .await?;
    let now = newest.as_ref().map(|row| row.number);
    let (file, clerk) = newest.map(|row| (row.file, row.clerk)).unwrap_or_default();
    let said = if author == Author::Clerk { &clerk } else { &file };
    if let Some(now) = now
        && said.as_deref() == Some(&*content)
    {
        return Ok(End::RollBack(Applied::InForce(number(now)?)));
    }
    if let (Author::File, Some(now)) = (author, now) {
        let then = sqlx::query_scalar!("select max(number) from catalog where file = $1", content);
        if let Some(then) = then.fetch_one(&mut *tx).await? {
            let replaced = Applied::Replaced { then: number(then)?, now: number(now)? };
            return Ok(End::RollBack(replaced));
        }
    }
    let (file, clerk) =
        if author == Author::Clerk { (file, Some(content)) } else { (Some(content), clerk) };
    let new = sqlx::query_scalar!(
        "
        with logged as (insert into change (subject) values (null))
        insert into catalog (file, clerk, source) values ($1, $2, $3) returning number
        ",
        file,
        clerk,
        source
    )
    .fetch_one(tx)
    .await?;
    Ok(End::Commit(Applied::New(number(new)?)))
}

fn number(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::Corrupt(format!("catalog number {number}")))
}
