//! A replica in a process of its own, behind a proxy, and the faults that it may meet.

use crate::{
    support::process::{Postgres, Process},
    support::proxy::Proxy,
};
use entitlements::api::pb::{
    CheckFeatureRequest, CheckFeatureResponse, entitlements_client::EntitlementsClient,
};
use std::{
    sync::{Mutex, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};
use tokio::{sync::RwLock, time::timeout};
use tonic::transport::Channel;

pub const SUBJECTS: usize = 24;

/// The fault during a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Nothing,
    ListenersKilled,
    NotificationsLost,
    OneLinkSlow,
    PostgresRestarted,
    OneBlackHoled,
    OneKilled,
    OneStopped,
}

impl Fault {
    /// Whether the fault is on the link between a replica and Postgres. Other faults run without a proxy, because a hop
    /// costs time.
    pub fn is_of_the_link(self) -> bool {
        matches!(self, Self::NotificationsLost | Self::OneLinkSlow | Self::OneBlackHoled)
    }
}

/// A replica and its link to Postgres.
pub struct Node {
    database: String,
    pub process: RwLock<Process>,
    client: RwLock<EntitlementsClient<Channel>>,
    pub proxy: Proxy,
    /// Set while the replica is cut off, and for some time afterwards.
    cut_off: Mutex<Option<Instant>>,
    /// The newest version of each subject in an answer of this replica.
    pub answered: [AtomicU64; SUBJECTS],
}

impl Node {
    pub async fn start(postgres: &Postgres, fault: Fault) -> Self {
        let proxy = Proxy::before(&postgres.url()).await;
        let database =
            if fault.is_of_the_link() { proxy.url("entitlements") } else { postgres.url() };
        let process = Process::start(&database, &[]).await;
        let client = RwLock::new(process.client());
        let answered = std::array::from_fn(|_| AtomicU64::new(0));
        let (process, cut_off) = (RwLock::new(process), Mutex::new(None));
        Self { database, process, client, proxy, cut_off, answered }
    }

    pub async fn restart(&self) {
        let mut process = self.process.write().await;
        process.kill().await;
        *process = Process::start(&self.database, &[]).await;
        *self.client.write().await = process.client();
    }

    pub fn cut_off_until(&self, until: Instant) {
        *self.cut_off.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    pub fn is_cut_off(&self) -> bool {
        self.cut_off.lock().unwrap().is_some_and(|until| Instant::now() < until)
    }

    pub async fn check(&self, subject: usize) -> Option<CheckFeatureResponse> {
        let request = CheckFeatureRequest {
            user_id: format!("user_{subject}"),
            feature: "export".into(),
            ..Default::default()
        };
        let mut client = self.client.read().await.clone();
        let answer = timeout(Duration::from_secs(1), client.check_feature(request)).await;
        answer.ok()?.ok().map(tonic::Response::into_inner)
    }
}

pub fn version(answer: &CheckFeatureResponse) -> u64 {
    let (_, revision) = answer.revision.rsplit_once('.').unwrap_or(("", "0"));
    revision.parse().unwrap()
}
