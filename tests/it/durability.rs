//! What was acknowledged survives: the service, sessions of Postgres and all of Postgres are killed while
//! deliveries arrive. `KILLS=100 cargo test --test it durability -- --nocapture` is the long form.

use crate::{
    dice::Dice,
    fold::fold,
    generated::{Story, catalog, kind, state},
    service::{SECRET, eventually, said, secret},
};
use chrono::Utc;
use entitlements::{
    embedded::{Binaries, Embedded},
    grpc::pb::{ListEntitlementsRequest, entitlements_client::EntitlementsClient},
};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, PgConnection};
use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Stdio,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tonic::transport::Endpoint;
use uuid::Uuid;

/// A Postgres and a service, each a process of its own that can be killed.
struct Rig {
    folder: TempDir,
    postgres: Embedded,
    service: Child,
    /// Where deliveries go now.
    url: Mutex<String>,
    grpc: String,
}

/// What can be killed.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Service,
    Session,
    Postgres,
    PostgresAtOnce,
}

impl Rig {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let postgres = Self::start_postgres(&folder).await;
        let (service, http, grpc) = Self::start_service(&folder, &postgres).await;
        Self { folder, postgres, service, url: Mutex::new(http), grpc }
    }

    async fn start_postgres(folder: &TempDir) -> Embedded {
        Embedded::persistent(folder.path(), &Binaries::from_env().unwrap()).await.unwrap()
    }

    async fn start_service(folder: &TempDir, postgres: &Embedded) -> (Child, String, String) {
        let log = folder.path().join(Uuid::now_v7().to_string());
        let service = Command::new(env!("CARGO_BIN_EXE_entitlements"))
            .arg("serve")
            .env("DATABASE_URL", postgres.url("entitlements"))
            .env("CLERK_WEBHOOK_SIGNING_SECRET", SECRET)
            .env("CATALOG", concat!(env!("CARGO_MANIFEST_DIR"), "/catalog.example.toml"))
            .env("MIGRATE", "true")
            .envs(["GRPC_LISTEN", "HTTP_LISTEN", "INTERNAL_LISTEN"].map(|v| (v, "127.0.0.1:0")))
            .stderr(fs::File::create(&log).unwrap())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let http = format!("http://{}", said(&log, "http").await);
        let grpc = format!("http://{}", said(&log, "grpc").await);
        let ready = format!("{http}/readyz");
        eventually("the service is ready", async || {
            reqwest::get(&ready).await.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        (service, http, grpc)
    }

    /// Kills, and brings back what does not come back by itself.
    async fn kill(&mut self, victim: Victim) {
        match victim {
            Victim::Service => self.service.kill().await.unwrap(),
            Victim::Session => {
                let mut db = self.db().await;
                let session = "select pid from pg_stat_activity where application_name = 'entitlements' limit 1";
                let session: Option<i32> =
                    sqlx::query_scalar(session).fetch_optional(&mut db).await.unwrap();
                if let Some(pid) = session {
                    signal(pid, Signal::KILL);
                }
                return;
            }
            Victim::Postgres => signal(self.postmaster(), Signal::KILL),
            Victim::PostgresAtOnce => signal(self.postmaster(), Signal::QUIT),
        }
        if matches!(victim, Victim::Service) {
            let (service, http, grpc) = Self::start_service(&self.folder, &self.postgres).await;
            (self.service, self.grpc) = (service, grpc);
            *self.url.lock().unwrap() = http;
        } else {
            self.postgres.exited().await;
            self.postgres = Self::start_postgres(&self.folder).await;
        }
    }

    fn postmaster(&self) -> i32 {
        let homes = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let pid: PathBuf =
            homes.map(|home| home.join("data/postmaster.pid")).find(|p| p.exists()).unwrap();
        fs::read_to_string(pid).unwrap().lines().next().unwrap().parse().unwrap()
    }

    async fn db(&self) -> PgConnection {
        let mut db = None;
        eventually("Postgres answers", async || {
            db = PgConnection::connect(&self.postgres.url("entitlements")).await.ok();
            db.is_some()
        })
        .await;
        db.unwrap()
    }
}

fn signal(pid: i32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal); // it may be gone already
}

/// Delivers once; true if it was acknowledged.
async fn deliver(client: &reqwest::Client, url: &str, id: &str, body: &str) -> bool {
    let now = Utc::now().timestamp();
    let request = client
        .post(format!("{url}/webhooks/clerk"))
        .header("svix-id", id)
        .header("svix-timestamp", now)
        .header("svix-signature", secret().sign(id, now, body))
        .body(body.to_owned());
    request.send().await.is_ok_and(|answer| answer.status().is_success())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_acknowledged_is_lost() {
    let kills = env::var("KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let mut dice = Dice::new();
    let stories: Vec<_> = (0..kills * 40).map(|n| Story::new(n, &mut dice)).collect();
    let all: Vec<_> = stories.iter().flat_map(|story| &story.messages).collect();
    let messages = dice.shuffled(&all);
    let client =
        reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(15)).build().unwrap();
    let mut rig = Rig::new().await;
    let next = AtomicUsize::new(0);
    let (kept, doubtful) = (Mutex::new(BTreeSet::new()), Mutex::new(BTreeSet::new()));

    let url = std::mem::take(&mut rig.url);
    let sender = async || {
        while let Some((id, body)) = messages.get(next.fetch_add(1, Ordering::SeqCst)) {
            let to = url.lock().unwrap().clone();
            if deliver(&client, &to, id, &body.to_string()).await {
                kept.lock().unwrap().insert(id.clone());
            } else {
                doubtful.lock().unwrap().insert(id.clone());
                eventually("a service is there again", async || {
                    let to = url.lock().unwrap().clone();
                    client.get(format!("{to}/livez")).send().await.is_ok()
                })
                .await;
            }
        }
    };
    let killer = async {
        for kill in 0..kills {
            let goal = (kill + 1) * messages.len() / (kills + 2);
            eventually("deliveries go on", async || next.load(Ordering::SeqCst) >= goal).await;
            let victims =
                [Victim::Service, Victim::Session, Victim::Postgres, Victim::PostgresAtOnce];
            rig.kill(victims[kill % victims.len()]).await;
            let now = rig.url.lock().unwrap().clone();
            if !now.is_empty() {
                url.lock().unwrap().clone_from(&now);
            }
        }
    };
    tokio::join!(killer, sender(), sender(), sender(), sender());

    let ledger: Vec<String> = sqlx::query_scalar("select svix_id from delivery")
        .fetch_all(&mut rig.db().await)
        .await
        .unwrap();
    let ledger: BTreeSet<_> = ledger.into_iter().collect();
    let (kept, doubtful) = (kept.into_inner().unwrap(), doubtful.into_inner().unwrap());
    let lost: Vec<_> = kept.difference(&ledger).collect();
    println!(
        "{kills} kills: {} acknowledged, {} lost, {} in doubt",
        kept.len(),
        lost.len(),
        doubtful.len()
    );
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");

    let to = url.lock().unwrap().clone();
    for (id, body) in messages.iter().filter(|(id, _)| doubtful.contains(id)) {
        let body = body.to_string();
        eventually("what was in doubt is taken", async || deliver(&client, &to, id, &body).await)
            .await;
    }
    compare(&rig, &stories).await;
    rig.service.kill().await.unwrap();
    rig.postgres.stop().await.unwrap();
}

/// Every account is the fold of its messages.
async fn compare(rig: &Rig, stories: &[Story]) {
    let mut client =
        EntitlementsClient::new(Endpoint::from_shared(rig.grpc.clone()).unwrap().connect_lazy());
    let now = Utc::now().timestamp_millis();
    for story in stories {
        let mut request = ListEntitlementsRequest {
            consistency: Some(entitlements::grpc::pb::Consistency {
                requirement: Some(
                    entitlements::grpc::pb::consistency::Requirement::FullyConsistent(true),
                ),
            }),
            ..Default::default()
        };
        if kind(&story.subject) == "user" {
            request.user_id.clone_from(&story.subject);
        } else {
            request.organization_id.clone_from(&story.subject);
        }
        let account =
            client.list_entitlements(request).await.unwrap().into_inner().accounts.remove(0);
        let expected = fold(&story.messages, &catalog(), kind(&story.subject), now);
        assert_eq!(state(&account), expected, "{}", story.subject);
    }
}
