//! A rolling restart of three replicas under calls and deliveries.

use crate::{
    support::process::{Postgres, Process},
    support::service::{ADA, is_acknowledged, payload, plain_http},
};
use entitlements::api::pb::{CheckFeatureRequest, entitlements_client::EntitlementsClient};
use futures_util::future::join_all;
use std::{
    net::TcpListener,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

const REPLICAS: usize = 3;

/// The addresses of a replica, which are stable across its restarts.
struct Seat {
    grpc: String,
    http: String,
    client: EntitlementsClient<Channel>,
}

impl Seat {
    fn new() -> Self {
        let free = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().to_string()
        };
        let (grpc, http) = (free(), free());
        let channel = Endpoint::from_shared(format!("http://{grpc}")).unwrap().connect_lazy();
        Self { grpc, http, client: EntitlementsClient::new(channel) }
    }

    async fn start(&self, postgres: &Postgres) -> Process {
        let addresses = [
            ("ENTITLEMENTS_API_LISTEN", self.grpc.as_str()),
            ("ENTITLEMENTS_WEBHOOK_LISTEN", &self.http),
        ];
        Process::start(&postgres.url(), &addresses).await
    }

    async fn check(&self) -> Result<bool, Status> {
        let request = CheckFeatureRequest {
            user_id: ADA.into(),
            feature: "export".into(),
            ..Default::default()
        };
        let answer = self.client.clone().check_feature(request).await?;
        Ok(answer.into_inner().allowed)
    }
}

/// Whether a caller may retry: the status is UNAVAILABLE, or tonic did not send the call because the connection was
/// closing. Other clients retry such calls themselves.
fn was_not_served(status: &Status) -> bool {
    const NEVER_SENT: [&str; 3] =
        ["connection closed", "connection was not ready", "GoAway(b\"\", NO_ERROR, Remote)"];
    let details = format!("{status:?}");
    status.code() == Code::Unavailable || NEVER_SENT.iter().any(|reason| details.contains(reason))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_fails_no_call_and_loses_no_delivery() {
    let postgres = Postgres::start().await;
    let seats: [Seat; REPLICAS] = std::array::from_fn(|_| Seat::new());
    let mut processes = vec![seats[0].start(&postgres).await];
    processes.extend(join_all(seats[1..].iter().map(|seat| seat.start(&postgres))).await);
    let http = plain_http();
    let active = payload("subscriptionItem.active");
    assert!(
        is_acknowledged(&http, &format!("http://{}", seats[0].http), "msg_first", &active).await
    );

    let (over, calls, retried) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let (delivered, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let call = async || {
        while !over.load(Ordering::SeqCst) {
            let n = calls.fetch_add(1, Ordering::SeqCst);
            let answer = match seats[n % REPLICAS].check().await {
                Err(status) if was_not_served(&status) => {
                    retried.fetch_add(1, Ordering::SeqCst);
                    seats[(n + 1) % REPLICAS].check().await
                }
                answer => answer,
            };
            assert!(answer.expect("at most one retry"));
        }
    };
    let send = async || {
        while !over.load(Ordering::SeqCst) {
            let n = delivered.fetch_add(1, Ordering::SeqCst);
            let mut to = n;
            while !is_acknowledged(
                &http,
                &format!("http://{}", seats[to % REPLICAS].http),
                &format!("msg_{n}"),
                &active,
            )
            .await
            {
                refused.fetch_add(1, Ordering::SeqCst);
                to += 1;
            }
        }
    };
    let mut running = Vec::new();
    let restart = async {
        for (seat, process) in seats.iter().zip(processes) {
            assert!(process.terminate().await, "ended in order");
            running.push(seat.start(&postgres).await);
        }
        over.store(true, Ordering::SeqCst);
    };
    tokio::join!(restart, call(), call(), call(), call(), send());
    let kept: i64 = sqlx::query_scalar("select count(*) from entitlements.delivery")
        .fetch_one(&mut postgres.db().await)
        .await
        .unwrap();
    assert_eq!(usize::try_from(kept).unwrap(), delivered.into_inner() + 1);
    println!(
        "{calls:?} calls, {retried:?} retried once, {kept} deliveries, {refused:?} delivered again"
    );
    for process in running {
        assert!(process.terminate().await);
    }
    postgres.stop().await;
}
