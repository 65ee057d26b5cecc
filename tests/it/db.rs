//! One private Postgres for the test process, one database for each test, copied from a migrated template.

use entitlements::{
    embedded::{Binaries, Embedded},
    store,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, Row};
use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};
use tokio::runtime::{Builder, Runtime};

/// A migrated database of its own.
pub struct Db {
    pub url: String,
}

/// Outlives every test: each test's runtime ends with it, this one does not.
struct Server {
    postgres: Embedded,
    _runtime: Runtime,
}

impl Db {
    pub async fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let postgres = &server().postgres;
        let mut admin = PgConnection::connect(&postgres.url("postgres")).await.unwrap();
        let create = format!("create database {name} template entitlements strategy file_copy");
        sqlx::query(AssertSqlSafe(create)).execute(&mut admin).await.unwrap();
        admin.close().await.unwrap();
        Self { url: postgres.url(&name) }
    }

    /// A database without any table.
    pub async fn empty() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("empty_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let postgres = &server().postgres;
        let mut admin = PgConnection::connect(&postgres.url("postgres")).await.unwrap();
        let create = format!("create database {name} template template0");
        sqlx::query(AssertSqlSafe(create)).execute(&mut admin).await.unwrap();
        admin.close().await.unwrap();
        Self { url: postgres.url(&name) }
    }

    pub async fn pool(&self) -> PgPool {
        PgPool::connect(&self.url).await.unwrap()
    }

    /// All rows of all tables, as text: two equal fingerprints mean that nothing changed.
    pub async fn fingerprint(&self) -> String {
        let mut db = PgConnection::connect(&self.url).await.unwrap();
        let tables = ["delivery", "subject", "item", "snapshot", "override", "change", "catalog"];
        let mut all = String::new();
        for table in tables {
            let rows = format!(
                "select coalesce(string_agg(t::text, E'\\n' order by t::text), '') from {table} t"
            );
            let rows = sqlx::query(AssertSqlSafe(rows)).fetch_one(&mut db).await.unwrap();
            all.extend([table, ":\n", rows.get(0), "\n"]);
        }
        db.close().await.unwrap();
        all
    }
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| thread::spawn(start).join().unwrap())
}

/// On a thread and a runtime of its own, because the caller is inside a test's runtime.
fn start() -> Server {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let postgres = runtime.block_on(async {
        let postgres = Embedded::temporary(&Binaries::from_env().unwrap()).await.unwrap();
        store::migrate(&postgres.url("entitlements").parse().unwrap()).await.unwrap();
        postgres
    });
    Server { postgres, _runtime: runtime }
}
