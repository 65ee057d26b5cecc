//! Applies the changes that other replicas made, by following the change log.
//!
//! The change log in Postgres is the source of truth. It is read at intervals and after each new LISTEN session. Most
//! changes arrive earlier by a notification, which names the changed subjects or asks to read the log now. So a lost
//! notification delays a change by at most one interval. Invariants: the cursor advances only after all rows before it
//! were applied; a notification from any other role costs bounded memory and work.

mod notified;

use crate::{
    replica::Accounts,
    storage::{Change, ChangeCursor, LogEnd, Notification, Store, StoreError},
    telemetry::{Metrics, log_chain},
};
use chrono::Utc;
use notified::Notified;
use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

/// How often the change log is read while notifications arrive.
const READ_INTERVAL: Duration = Duration::from_secs(1);
/// The longest polling interval without a LISTEN session.
const POLL_MAX: Duration = Duration::from_millis(250);
/// The first polling interval after the LISTEN session was lost, because most are back at once. It doubles up to
/// [`POLL_MAX`].
const POLL_MIN: Duration = Duration::from_millis(10);
/// How long a LISTEN session may be silent before a notification is sent to test it.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// The timeout for opening a LISTEN session, and for the test notification.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(2);
/// The first pause before a new LISTEN session is opened; it doubles up to [`RELISTEN_MAX`].
const RELISTEN_MIN: Duration = Duration::from_millis(5);
/// The longest pause before a new LISTEN session is opened.
const RELISTEN_MAX: Duration = Duration::from_secs(30);
/// A replica that has not read the log for longer than this marks all accounts stale instead, because log rows are kept
/// for only a day.
const APPLIED_RETENTION: Duration = Duration::from_hours(12);

/// Follows the change log, and sends and receives notifications.
#[derive(Debug)]
pub struct ChangeFollower {
    store: Arc<Store>,
    accounts: Arc<Accounts>,
    metrics: Arc<Metrics>,
    read_now: Notify,
    listening: AtomicBool,
    notified: Mutex<Notified>,
}

/// The position up to which the change log was applied.
struct LogPosition {
    /// No row before this horizon can appear any more.
    here: LogEnd,
    /// Rows after the horizon that were applied already.
    applied: BTreeSet<ChangeCursor>,
    at: Instant,
}

/// Why a LISTEN session ended.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error("this connection delivers no notifications (is there a transaction-mode pooler?)")]
    NotListening,
    #[error("the LISTEN session did not answer within {} s", HEARTBEAT_TIMEOUT.as_secs())]
    Silent,
    #[error("the LISTEN session was closed")]
    Closed,
    #[error("the LISTEN session failed")]
    Failed(#[from] sqlx::Error),
    #[error("cannot open a LISTEN session")]
    Store(#[from] StoreError),
}

impl ChangeFollower {
    /// A follower that applies changes to `accounts`.
    #[must_use]
    pub fn new(store: Arc<Store>, accounts: Arc<Accounts>, metrics: Arc<Metrics>) -> Self {
        let (read_now, listening) = (Notify::new(), AtomicBool::new(false));
        let notified = Mutex::new(Notified::new(Instant::now()));
        Self { store, accounts, metrics, read_now, listening, notified }
    }

    /// Follows the change log, and sends and receives notifications, for ever.
    pub async fn run(self) -> Infallible {
        tokio::select! {
            never = self.follow() => never,
            never = self.listen() => never,
            never = self.send_notifications() => never,
        }
    }

    async fn follow(&self) -> Infallible {
        let (mut position, mut was_ok, mut poll) = (None, None, POLL_MIN);
        loop {
            match self.read(&mut position).await {
                Ok(()) => {
                    if was_ok == Some(false) {
                        tracing::info!("change log: caught up");
                    }
                    was_ok = Some(true);
                }
                Err(error) => {
                    if was_ok != Some(false) {
                        tracing::warn!(error = log_chain(&error), "cannot read the change log");
                    }
                    was_ok = Some(false);
                    self.accounts.freshness().disconnected();
                }
            }
            let is_listening = self.listening.load(Ordering::Relaxed);
            let pause = if is_listening { READ_INTERVAL } else { poll };
            poll = if is_listening { POLL_MIN } else { (poll * 2).min(POLL_MAX) };
            let _ = timeout(pause, self.read_now.notified()).await;
        }
    }

    /// Reads the change log to its end, and records that this replica has caught up.
    async fn read(&self, position: &mut Option<LogPosition>) -> Result<(), StoreError> {
        let (began, began_at) = (Instant::now(), unix_seconds());
        if position.as_ref().is_none_or(|position| position.at.elapsed() > APPLIED_RETENTION) {
            *position = Some(self.start().await?);
        }
        let position = position.as_mut().expect("it was set just now");
        if !self.catch_up(position).await? {
            tracing::warn!(
                "change log: history changed (failover or restore), marking all accounts stale"
            );
            self.accounts.reset().await?;
            *position = self.start().await?;
        }
        position.at = began;
        self.metrics.changes_read_at.set(began_at);
        self.accounts.freshness().caught_up(began);
        Ok(())
    }

    /// Marks all accounts stale, loads the catalog, and returns the position from which all later changes are read.
    async fn start(&self) -> Result<LogPosition, StoreError> {
        let here = self.store.log_end().await?;
        self.accounts.mark_all_stale();
        self.accounts.reload_catalog().await?;
        Ok(LogPosition { here, applied: BTreeSet::new(), at: Instant::now() })
    }

    /// Applies all changes after the position. False if the database has another history than before.
    async fn catch_up(&self, position: &mut LogPosition) -> Result<bool, StoreError> {
        let (mut after, mut settled) = (position.here.horizon, None);
        loop {
            let page = self.store.changes(after).await?;
            if page.here.history != position.here.history
                || page.here.horizon < position.here.horizon
            {
                return Ok(false);
            }
            for change in page.rows {
                after = change.at;
                if position.applied.contains(&change.at) {
                    continue;
                }
                self.metrics.change_lag.observe(self.lag(&change));
                match &change.subject {
                    Some(subject) => self.accounts.changed(subject, change.revision),
                    None => self.accounts.reload_catalog().await?,
                }
                position.applied.insert(change.at); // only now, so that a failed change is retried
            }
            let settled = *settled.get_or_insert(page.here.horizon);
            if !page.more {
                position.here.horizon = settled;
                position.applied = position.applied.split_off(&settled);
                return Ok(true);
            }
        }
    }

    /// The time from the change until this replica knew of it, by the log or by a notification, in seconds.
    fn lag(&self, change: &Change) -> f64 {
        let changed = change.subject.clone().zip(change.revision);
        let known_for = changed.and_then(|changed| self.notified().since(&changed));
        (change.age - known_for.unwrap_or_default().as_secs_f64()).max(0.0)
    }

    /// Keeps a LISTEN session open, and reads the change log whenever a new one begins.
    async fn listen(&self) -> Infallible {
        let mut pause = RELISTEN_MIN;
        loop {
            let Err(end) = self.session(&mut pause).await;
            let was_listening = self.listening.swap(false, Ordering::Relaxed);
            self.metrics.gauges.listening.set(0);
            match end {
                SessionEnd::NotListening => {
                    tracing::warn!(
                        "{end}: polling the change log every {} ms",
                        POLL_MAX.as_millis()
                    );
                    pause = RELISTEN_MAX;
                }
                end if was_listening => {
                    self.read_now.notify_one();
                    tracing::warn!(
                        error = log_chain(&end),
                        "LISTEN session lost, polling the change log"
                    );
                }
                _ => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(RELISTEN_MAX);
        }
    }

    async fn session(&self, pause: &mut Duration) -> Result<Infallible, SessionEnd> {
        if self.store.is_pooled().await? {
            return Err(SessionEnd::NotListening);
        }
        let listen = timeout(HEARTBEAT_TIMEOUT, self.store.listen()).await;
        let mut session = listen.map_err(|_| SessionEnd::Silent)??;
        self.store.notify().await?; // a test: this session must receive it
        let received = timeout(HEARTBEAT_TIMEOUT, session.try_recv())
            .await
            .map_err(|_| SessionEnd::NotListening)?;
        received?.ok_or(SessionEnd::Closed)?;
        self.listening.store(true, Ordering::Relaxed);
        self.metrics.gauges.listening.set(1);
        *pause = RELISTEN_MIN;
        self.read_now.notify_one();
        loop {
            let received = timeout(HEARTBEAT_INTERVAL, session.try_recv()).await;
            let notification = if let Ok(notification) = received {
                notification?
            } else {
                // A query on the session would test it, too, but during a query sqlx buffers all notifications without
                // a limit.
                if let Err(error) = self.store.notify().await {
                    tracing::debug!(error = log_chain(&error), "cannot test the LISTEN session");
                    continue; // `notify` uses another connection
                }
                timeout(HEARTBEAT_TIMEOUT, session.try_recv())
                    .await
                    .map_err(|_| SessionEnd::Silent)??
            };
            self.apply_notification(notification.ok_or(SessionEnd::Closed)?.payload());
        }
    }

    /// Invalidates the subjects that a notification names, except those that this replica itself changed and has
    /// invalidated before. A notification without names, or beyond the limit of names, causes a read of the log.
    fn apply_notification(&self, payload: &str) {
        let now = Instant::now();
        if !self.notified().has_room(now) {
            return self.read_now.notify_one();
        }
        let changed = match self.store.parse_notification(payload) {
            Notification::ReadLog => return self.read_now.notify_one(),
            Notification::Own(changed) => changed,
            Notification::Others(changed) => {
                for (subject, revision) in &changed {
                    self.accounts.changed(subject, Some(*revision));
                }
                changed
            }
        };
        self.notified().add(changed, now);
    }

    fn notified(&self) -> MutexGuard<'_, Notified> {
        self.notified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notifies other replicas of the changes made here. A change made during a NOTIFY goes into the next one.
    async fn send_notifications(&self) -> Infallible {
        loop {
            self.store.pending_notifications().await;
            if let Err(error) = self.store.notify().await {
                tracing::debug!(error = log_chain(&error), "cannot send a notification");
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a millisecond is precise enough")]
fn unix_seconds() -> f64 {
    Utc::now().timestamp_millis() as f64 / 1000.0
}
