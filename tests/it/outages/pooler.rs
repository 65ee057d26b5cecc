//! The service behind PgBouncer. Skipped with a message where PgBouncer is not installed.

use crate::support::skip::skip;
use crate::{
    support::database::Db,
    support::proxy::Proxy,
    support::service::{ADA, GRACE, Replica, config, eventually, payload},
};
use entitlements::{api::pb::Reason, config::Config, storage::Store};
use futures_util::future::join_all;
use nix::unistd::User;
use rustix::process::geteuid;
use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, chown},
        net::UnixStream,
    },
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

struct PgBouncer {
    child: Child,
    _server: Proxy,
    /// The folder of its socket. A free port could be taken by another test.
    folder: TempDir,
}

impl PgBouncer {
    /// Starts PgBouncer in front of this database, in this mode; `None`: it is not installed.
    async fn before(db: &Db, mode: &str) -> Option<Self> {
        let installed = Command::new("pgbouncer").arg("--version").stdout(Stdio::null()).status();
        if !installed.is_ok_and(|status| status.success()) {
            skip("PgBouncer is not installed (apt-get install pgbouncer)");
            return None;
        }
        let server = Proxy::before(&db.url).await;
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let settings = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={} port={} user=entitlements\n[pgbouncer]\nlisten_addr =\n\
             unix_socket_dir = {}\nauth_type = any\npool_mode = {mode}\ndefault_pool_size = 4\n",
            server.address.ip(),
            server.address.port(),
            folder.path().display(),
        );
        fs::write(&settings, text).unwrap();
        let mut command = Command::new("pgbouncer");
        if geteuid().is_root() {
            let nobody = User::from_name("nobody").unwrap().unwrap();
            chown(folder.path(), Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).unwrap();
            command.args(["-u", "nobody"]);
        }
        let child = command.arg(settings).stderr(Stdio::null()).spawn().unwrap();
        let socket = folder.path().join(".s.PGSQL.6432");
        eventually("PgBouncer listens", async || UnixStream::connect(&socket).is_ok()).await;
        Some(Self { child, _server: server, folder })
    }

    fn url(&self, db: &Db) -> String {
        let socket = self.folder.path().display().to_string().replace('/', "%2F");
        format!("postgres://entitlements@localhost:6432/{}?host={socket}", db.name())
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill(); // the process may have ended already
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn concurrent_connections_all_detect_a_pooler() {
    let db = Db::new().await;
    let Some(pooler) = PgBouncer::before(&db, "transaction").await else { return };
    let found = (0..40).map(|_| {
        let store = Store::new(pooler.url(&db).parse().unwrap());
        async move { store.is_pooled().await.unwrap() }
    });
    assert!(join_all(found).await.into_iter().all(|found| found));
}

#[tokio::test]
async fn session_mode_pooling_works_like_direct_connections() {
    let db = Db::new().await;
    let Some(pooler) = PgBouncer::before(&db, "session").await else { return };
    for _ in 0..3 {
        let store = Store::new(pooler.url(&db).parse().unwrap());
        assert!(!store.is_pooled().await.unwrap());
    }
}

#[tokio::test]
async fn two_replicas_work_through_a_transaction_mode_pooler() {
    let db = Db::new().await;
    let Some(pooler) = PgBouncer::before(&db, "transaction").await else { return };
    let through = || Config { database: pooler.url(&db).parse().unwrap(), ..config(&db) };
    let (one, other) = (Replica::launch(through()).await, Replica::launch(through()).await);
    tokio::join!(one.serving(), other.serving());
    for (name, reason) in [
        ("subscriptionItem.active", Reason::Plan),
        ("subscriptionItem.canceled", Reason::CanceledButPaid),
        ("subscriptionItem.ended", Reason::Ended),
    ] {
        let answer = one.send_as(name.split('.').nth(1).unwrap(), &payload(name)).await;
        assert_eq!(answer.result(), "applied", "{name}: {answer:?}");
        assert_eq!(one.check(ADA, "", "export").await.reason(), reason, "{name}");
        eventually("the other replica has processed the change", async || {
            other.check(ADA, "", "export").await.reason() == reason
        })
        .await;
    }
    let again = one.send_as("ended", &payload("subscriptionItem.ended")).await;
    assert_eq!(again.result(), "duplicate");
    // More concurrent work of all kinds than the pooler has connections.
    let work = (0..40).map(|n| {
        let replica = if n % 2 == 0 { &one } else { &other };
        async move {
            let user = format!("user_{n}");
            let body = payload("subscriptionItem.active.free-trial").replace(GRACE, &user);
            let answer = replica.send_until_answered(&user, &body).await;
            assert_eq!(answer.result(), "applied", "{answer:?}");
            assert_eq!(replica.check(&user, "", "export").await.reason(), Reason::Trial);
        }
    });
    join_all(work).await;
}
