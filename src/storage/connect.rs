//! Opens connections and LISTEN sessions, and detects a transaction-mode pooler.

use super::StoreError;
use sqlx::{
    Connection, PgConnection, Row,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::OnceCell;

/// Opens connections, and detects a transaction-mode pooler.
#[derive(Debug)]
pub(super) struct Connector {
    pub options: PgConnectOptions,
    is_pooled: OnceCell<bool>,
}

impl Connector {
    pub(super) fn new(options: PgConnectOptions) -> Arc<Self> {
        // Poolers reject unknown start-up parameters.
        let options = options.extra_float_digits(None);
        Arc::new(Self { options, is_pooled: OnceCell::new() })
    }

    /// Names the database, its host and port, and the user, without the password.
    pub(super) fn describe(&self) -> String {
        let options = &self.options;
        let host = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => options.get_host().to_owned(),
        };
        let (port, user) = (options.get_port(), options.get_username());
        let name = options.get_database().unwrap_or(user);
        format!("database `{name}` at {host}:{port}, as `{user}`")
    }

    /// Whether connections go through a transaction-mode pooler. It is detected once, before any other work.
    pub(super) async fn is_pooled(&self) -> Result<bool, StoreError> {
        Ok(*self.is_pooled.get_or_try_init(|| self.detect_pooler()).await?)
    }

    /// A direct session keeps the setting that its connection made last. A transaction-mode pooler moves sessions
    /// between connections, here also among those of other clients, so that after some rounds a foreign or no value
    /// shows.
    async fn detect_pooler(&self) -> Result<bool, sqlx::Error> {
        const ROUNDS: usize = 9;
        let one = PgConnection::connect_with(&self.options).await?;
        let other = PgConnection::connect_with(&self.options).await?;
        let mut probes = [one, other].map(|db| (db, fastrand::u64(..).to_string()));
        let mut found = false;
        for round in 0..ROUNDS {
            for (db, own) in &mut probes {
                let last = replace_probe(db, own).await?;
                found |= round > 0 && last.as_ref() != Some(own);
            }
        }
        let [(one, _), (other, _)] = probes;
        tokio::try_join!(one.close(), other.close())?;
        if found {
            tracing::warn!(
                "DATABASE_URL leads through a transaction-mode pooler: every query runs in its own transaction, \
                 and the change log is polled because the pooler does not support LISTEN; connect directly \
                 for lower latency"
            );
        }
        Ok(found)
    }

    /// Opens a LISTEN session on its own pool of one connection. A dropped listener first sends UNLISTEN, which on a
    /// dead connection would occupy a connection of a shared pool for ever.
    pub(super) async fn listen(&self, channel: &str) -> Result<PgListener, sqlx::Error> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(Duration::from_secs(2))
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(self.options.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.listen(channel).await?;
        Ok(listener)
    }
}

/// Sets the probe value of the session that a connection has at the moment; returns the previous value.
async fn replace_probe(db: &mut PgConnection, by: &str) -> Result<Option<String>, sqlx::Error> {
    let replace = format!(
        "select pg_catalog.current_setting('entitlements.probe', true),
            pg_catalog.set_config('entitlements.probe', '{by}', false)"
    );
    Ok(sqlx::raw_sql(sqlx::AssertSqlSafe(replace)).fetch_one(db).await?.get(0))
}
