//! Acknowledged deliveries survive: the service, sessions of Postgres and all of Postgres are killed while deliveries
//! arrive. `KILLS=100 cargo test --test it kills:: -- --nocapture` is the long form.

use crate::{
    support::oracle::expected_state,
    support::process::{Postgres, Process, signal},
    support::rng::Rng,
    support::service::{eventually, is_acknowledged},
    support::stories::{Story, catalog, kind, state},
};
use chrono::Utc;
use entitlements::api::pb::ListEntitlementsRequest;
use rustix::process::Signal;
use std::{
    collections::BTreeSet,
    env,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::interval;

/// A Postgres and a service, each in a process that can be killed.
struct Processes {
    postgres: Postgres,
    service: Process,
    /// The current URL for deliveries.
    url: Mutex<String>,
}

/// The process or session to kill.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Service,
    Session,
    Postgres,
    PostgresAtOnce,
}

impl Processes {
    async fn new() -> Self {
        let postgres = Postgres::start().await;
        let service = Process::start(&postgres.url(), &[]).await;
        let url = Mutex::new(service.http.clone());
        Self { postgres, service, url }
    }

    /// Kills a victim, and restarts it unless it comes back by itself.
    async fn kill(&mut self, victim: Victim) {
        match victim {
            Victim::Service => {
                self.service.kill().await;
                self.service = Process::start(&self.postgres.url(), &[]).await;
                self.url.lock().unwrap().clone_from(&self.service.http);
            }
            Victim::Session => {
                let session = "select pid from pg_stat_activity where application_name = 'entitlements' limit 1";
                let session: Option<i32> = sqlx::query_scalar(session)
                    .fetch_optional(&mut self.postgres.db().await)
                    .await
                    .unwrap();
                if let Some(pid) = session {
                    signal(pid, Signal::KILL);
                }
            }
            Victim::Postgres => self.postgres.restart(Signal::KILL).await,
            Victim::PostgresAtOnce => self.postgres.restart(Signal::QUIT).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_delivery_is_lost() {
    let kills = env::var("KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let mut rng = Rng::new();
    let stories: Vec<_> = (0..kills * 40).map(|n| Story::new(n, &mut rng)).collect();
    let all: Vec<_> = stories.iter().flat_map(|story| &story.messages).collect();
    let messages = rng.shuffled(&all);
    let client =
        reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(15)).build().unwrap();
    let mut processes = Processes::new().await;
    let next = AtomicUsize::new(0);
    let (kept, unconfirmed) = (Mutex::new(BTreeSet::new()), Mutex::new(BTreeSet::new()));

    let url = std::mem::take(&mut processes.url);
    let sender = async || {
        while let Some((id, body)) = messages.get(next.fetch_add(1, Ordering::SeqCst)) {
            let to = url.lock().unwrap().clone();
            if is_acknowledged(&client, &to, id, &body.to_string()).await {
                kept.lock().unwrap().insert(id.clone());
            } else {
                unconfirmed.lock().unwrap().insert(id.clone());
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
            let mut tick = interval(Duration::from_millis(5));
            while next.load(Ordering::SeqCst) < goal {
                tick.tick().await; // as long as the senders run
            }
            let victims =
                [Victim::Service, Victim::Session, Victim::Postgres, Victim::PostgresAtOnce];
            processes.kill(victims[kill % victims.len()]).await;
            let now = processes.url.lock().unwrap().clone();
            if !now.is_empty() {
                url.lock().unwrap().clone_from(&now);
            }
        }
    };
    tokio::join!(killer, sender(), sender(), sender(), sender());

    let ledger: Vec<String> = sqlx::query_scalar("select svix_id from entitlements.delivery")
        .fetch_all(&mut processes.postgres.db().await)
        .await
        .unwrap();
    let ledger: BTreeSet<_> = ledger.into_iter().collect();
    let (kept, unconfirmed) = (kept.into_inner().unwrap(), unconfirmed.into_inner().unwrap());
    let lost: Vec<_> = kept.difference(&ledger).collect();
    println!(
        "{kills} kills: {} acknowledged, {} lost, {} in doubt",
        kept.len(),
        lost.len(),
        unconfirmed.len()
    );
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");

    let to = url.lock().unwrap().clone();
    for (id, body) in messages.iter().filter(|(id, _)| unconfirmed.contains(id)) {
        let body = body.to_string();
        eventually("the delivery with unknown outcome is recorded", async || {
            is_acknowledged(&client, &to, id, &body).await
        })
        .await;
    }
    compare(&processes, &stories).await;
    processes.service.kill().await;
    processes.postgres.stop().await;
}

/// Checks that every account equals the oracle's state of its messages.
async fn compare(processes: &Processes, stories: &[Story]) {
    let mut client = processes.service.client();
    let now = Utc::now().timestamp_millis();
    for story in stories {
        let mut request = ListEntitlementsRequest {
            consistency: Some(entitlements::api::pb::Consistency {
                requirement: Some(
                    entitlements::api::pb::consistency::Requirement::FullyConsistent(true),
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
        let expected = expected_state(&story.messages, &catalog(), kind(&story.subject), now);
        assert_eq!(state(&account), expected, "{}", story.subject);
    }
}
