//! One private Postgres for the test process, one database for each test, copied from a migrated template.

use embedded_postgres::{Binaries, Embedded};
use entitlements::storage::{self, Grantees};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, Row};
use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};
use tokio::runtime::{Builder, Runtime};

/// A migrated database for one test.
pub struct Db {
    pub url: String,
    name: String,
}

/// The shared server. Its runtime outlives the runtimes of the tests.
struct Server {
    postgres: Embedded,
    _runtime: Runtime,
}

/// The line that `migrate` prints at the end.
pub fn at_newest_migration() -> String {
    let newest = sqlx::migrate!().iter().map(|migration| migration.version).max().unwrap();
    format!("the database is at migration {newest}\n")
}

impl Db {
    pub async fn new() -> Self {
        let db = Self::absent();
        db.admin("create database {} template entitlements strategy file_copy").await;
        db
    }

    /// The URL of a database that does not exist yet.
    pub fn absent() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        Self { url: server().postgres.url(&name), name }
    }

    /// Creates the database without any table.
    pub async fn create_empty(&self) {
        self.admin("create database {} template template0").await;
    }

    /// Drops the database and terminates all connections to it.
    pub async fn drop_by_force(&self) {
        self.admin("drop database {} with (force)").await;
    }

    /// The URL of the server's own database, as the superuser.
    pub fn admin_url() -> String {
        server().postgres.url("postgres")
    }

    /// The URL with another role, whose password is its name.
    pub fn url_as(&self, role: &str) -> String {
        self.url.replace("entitlements@", &format!("{role}:{role}@"))
    }

    /// Creates a role with the rights that `serve` needs, and returns it with its URL.
    pub async fn service_role(&self) -> (String, String) {
        let role = format!("{}_service", self.name);
        self.run(&format!("create role {role} login password '{role}'")).await;
        let options = self.url.parse().unwrap();
        let grantees = Grantees { service: std::slice::from_ref(&role), sql: &[] };
        storage::migrate_and_grant(&options, grantees).await.unwrap();
        let url = self.url_as(&role);
        assert_ne!(url, self.url);
        (role, url)
    }

    async fn admin(&self, command: &str) {
        let mut db = PgConnection::connect(&Self::admin_url()).await.unwrap();
        let mut command = command.replace("{}", &self.name);
        if db.server_version_num().is_some_and(|version| version < 150_000) {
            command = command.replace(" strategy file_copy", ""); // it has no other strategy
        }
        sqlx::query(AssertSqlSafe(command)).execute(&mut db).await.unwrap();
        db.close().await.unwrap();
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub async fn pool(&self) -> PgPool {
        PgPool::connect(&self.url).await.unwrap()
    }

    /// Runs SQL statements as the owner of the database.
    pub async fn run(&self, sql: &str) {
        let mut db = PgConnection::connect(&self.url).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut db).await.unwrap();
        db.close().await.unwrap();
    }

    /// The number of rows of a table.
    pub async fn count(&self, table: &str) -> usize {
        let mut db = PgConnection::connect(&self.url).await.unwrap();
        let count = AssertSqlSafe(format!("select count(*) from entitlements.{table}"));
        let count: i64 = sqlx::query_scalar(count).fetch_one(&mut db).await.unwrap();
        db.close().await.unwrap();
        count.try_into().unwrap()
    }

    /// All rows of all tables, as text: two equal fingerprints mean that nothing changed.
    pub async fn fingerprint(&self) -> String {
        let mut db = PgConnection::connect(&self.url).await.unwrap();
        let tables = [
            "delivery",
            "subject",
            "item",
            "snapshot",
            "override",
            "change_log",
            "catalog_version",
        ];
        let mut all = String::new();
        for table in tables {
            let rows = format!(
                "select coalesce(string_agg(t::text, E'\\n' order by t::text), '') from entitlements.{table} t"
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

/// Starts the server on a thread and a runtime of its own, because the caller is inside a test's runtime.
fn start() -> Server {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let postgres = runtime.block_on(async {
        let postgres = Embedded::temporary(&Binaries::from_env().unwrap()).await.unwrap();
        storage::migrate(&postgres.url("entitlements").parse().unwrap()).await.unwrap();
        postgres
    });
    Server { postgres, _runtime: runtime }
}
