//! A replica whose catalog has what the flag protocols distinguish.

use crate::{
    support::database::Db,
    support::service::{Replica, config},
};
use entitlements::{config::Config, domain::Catalog};

/// Features with and without a number, and `strict` ones.
pub const CATALOG: &str = r#"
strict = ["audit"]
[user]
default_plan = "free_user"
[user.plans.free_user]
features = ["basic_reports"]
limits = { projects = 3 }
[user.plans.pro]
features = ["basic_reports", "export"]
limits = { projects = 25 }
[organization.plans.team]
features = ["sso", "projects", "audit"]
"#;

pub fn with_catalog(text: &str, db: &Db) -> Config {
    let catalog = Some((Catalog::from_toml(text).unwrap(), "test.toml".into()));
    Config { catalog, ..config(db) }
}

/// A replica with the catalog [`CATALOG`].
pub async fn replica(db: &Db) -> Replica {
    Replica::start_with(with_catalog(CATALOG, db)).await
}
