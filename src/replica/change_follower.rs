//! Hears what other replicas changed.
//!
//! The change log in Postgres is the truth. It is read with each tick and each new listening session; the doorbell tells
//! of most changes before that, by name, or that the log is to be read now. So a lost notification costs a tick and
//! nothing else. What must always hold: the cursor moves on only when all rows before it were heard; and what a stranger
//! sends by NOTIFY costs bounded memory and work.

mod notified;

use crate::{
    replica::Accounts,
    storage::{Change, Cursor, Here, Ring, Store, StoreError},
    telemetry::{Metrics, chain},
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

/// How often the log is read while the doorbell is heard.
const TICK: Duration = Duration::from_secs(1);
/// How often it is read while it is not.
const POLL: Duration = Duration::from_millis(250);
/// How soon after the doorbell was lost, which mostly is back in a moment; the pause doubles until it is [`POLL`].
const HASTE: Duration = Duration::from_millis(10);
/// How long a listening session may be silent before a notification is sent that it must bring.
const BEAT: Duration = Duration::from_secs(2);
/// How long listening may take, and how long such a notification may.
const ANSWER: Duration = Duration::from_secs(2);
/// The pause before listening is tried again; it doubles.
const AGAIN: Duration = Duration::from_millis(5);
/// The longest such pause.
const RETRY: Duration = Duration::from_secs(30);
/// Log rows are kept for a day; who has not read for longer than this forgets everything instead.
const MEMORY: Duration = Duration::from_hours(12);

/// Follows the change log.
#[derive(Debug)]
pub struct Changes {
    store: Arc<Store>,
    accounts: Arc<Accounts>,
    metrics: Arc<Metrics>,
    bell: Notify,
    listening: AtomicBool,
    notified: Mutex<Notified>,
}

/// How far the log was read.
struct Place {
    /// No row before its horizon can appear any more.
    here: Here,
    /// Rows after it that were heard already.
    heard: BTreeSet<Cursor>,
    at: Instant,
}

/// Why a listening session ended.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error(
        "notifications do not come through this connection (is there a transaction-mode pooler?)"
    )]
    Deaf,
    #[error("the session does not answer")]
    Silent,
    #[error("the session was closed")]
    Closed,
    #[error("the session failed")]
    Failed(#[from] sqlx::Error),
    #[error("cannot listen")]
    Store(#[from] StoreError),
}

impl Changes {
    /// Will tell `accounts` what changed.
    #[must_use]
    pub fn new(store: Arc<Store>, accounts: Arc<Accounts>, metrics: Arc<Metrics>) -> Self {
        let (bell, listening) = (Notify::new(), AtomicBool::new(false));
        let notified = Mutex::new(Notified::new(Instant::now()));
        Self { store, accounts, metrics, bell, listening, notified }
    }

    /// Follows the log, listens for the doorbell and rings it, for ever.
    pub async fn run(&self) -> Infallible {
        tokio::select! {
            never = self.follow() => never,
            never = self.listen() => never,
            never = self.ring() => never,
        }
    }

    async fn follow(&self) -> Infallible {
        let (mut place, mut hears, mut poll) = (None, None, HASTE);
        loop {
            match self.read(&mut place).await {
                Ok(()) if hears != Some(true) => {
                    tracing::info!("hearing all changes");
                    hears = Some(true);
                }
                Ok(()) => {}
                Err(error) => {
                    if hears != Some(false) {
                        tracing::warn!(error = chain(&error), "cannot read the change log");
                    }
                    hears = Some(false);
                    self.accounts.freshness().lost();
                }
            }
            let is_listening = self.listening.load(Ordering::Relaxed);
            let pause = if is_listening { TICK } else { poll };
            poll = if is_listening { HASTE } else { (poll * 2).min(POLL) };
            let _ = timeout(pause, self.bell.notified()).await;
        }
    }

    /// Reads the log to its end, and says so to all who wonder how fresh this replica is.
    async fn read(&self, place: &mut Option<Place>) -> Result<(), StoreError> {
        let (began, began_at) = (Instant::now(), unix_seconds());
        if place.as_ref().is_none_or(|place| place.at.elapsed() > MEMORY) {
            *place = Some(self.begin().await?);
        }
        let place = place.as_mut().expect("it was set just now");
        if !self.read_on(place).await? {
            tracing::warn!(
                "another primary has taken over, which may have lost what was read of the one before: \
                 everything is read again"
            );
            self.accounts.start_over().await?;
            *place = self.begin().await?;
        }
        place.at = began;
        self.metrics.changes_heard_at.set(began_at);
        self.accounts.freshness().heard(began);
        Ok(())
    }

    /// Where the log must be read from so that nothing is missed which is not doubted here.
    async fn begin(&self) -> Result<Place, StoreError> {
        let here = self.store.here().await?;
        self.accounts.doubt_all();
        self.accounts.reload_catalog().await?;
        Ok(Place { here, heard: BTreeSet::new(), at: Instant::now() })
    }

    /// False if this is not the history that was read before.
    async fn read_on(&self, place: &mut Place) -> Result<bool, StoreError> {
        let (mut after, mut settled) = (place.here.horizon, None);
        loop {
            let page = self.store.changes(after).await?;
            if page.here.history != place.here.history || page.here.horizon < place.here.horizon {
                return Ok(false);
            }
            for change in page.rows {
                after = change.at;
                if place.heard.contains(&change.at) {
                    continue;
                }
                self.metrics.change_lag.observe(self.lag(&change));
                match &change.subject {
                    Some(subject) => self.accounts.changed(subject, change.revision),
                    None => self.accounts.reload_catalog().await?,
                }
                place.heard.insert(change.at); // not before: what fails is to be done again
            }
            let settled = *settled.get_or_insert(page.here.horizon);
            if !page.more {
                place.here.horizon = settled;
                place.heard = place.heard.split_off(&settled);
                return Ok(true);
            }
        }
    }

    /// How long it took until the change was heard of, in seconds; by the doorbell, if that told of it.
    fn lag(&self, change: &Change) -> f64 {
        let changed = change.subject.clone().zip(change.revision);
        let known_for = changed.and_then(|changed| self.notified().since(&changed));
        (change.age - known_for.unwrap_or_default().as_secs_f64()).max(0.0)
    }

    /// Keeps a session that hears the doorbell, and reads the log whenever there is a new one.
    async fn listen(&self) -> Infallible {
        let mut pause = AGAIN;
        loop {
            let Err(end) = self.session(&mut pause).await;
            let was_listening = self.listening.swap(false, Ordering::Relaxed);
            self.metrics.gauges.listening.set(0);
            match end {
                SessionEnd::Deaf => {
                    tracing::warn!("{end}; reading the change log every {} ms", POLL.as_millis());
                    pause = RETRY;
                }
                end if was_listening => {
                    self.bell.notify_one();
                    tracing::warn!(error = chain(&end), "lost the doorbell; polling meanwhile");
                }
                _ => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY);
        }
    }

    async fn session(&self, pause: &mut Duration) -> Result<Infallible, SessionEnd> {
        if self.store.is_pooled().await? {
            return Err(SessionEnd::Deaf);
        }
        let listen = timeout(ANSWER, self.store.listen()).await;
        let mut session = listen.map_err(|_| SessionEnd::Silent)??;
        self.store.notify().await?; // a test: does it come back?
        let heard = timeout(ANSWER, session.try_recv()).await.map_err(|_| SessionEnd::Deaf)?;
        heard?.ok_or(SessionEnd::Closed)?;
        self.listening.store(true, Ordering::Relaxed);
        self.metrics.gauges.listening.set(1);
        *pause = AGAIN;
        self.bell.notify_one();
        loop {
            let rung = if let Ok(rung) = timeout(BEAT, session.try_recv()).await {
                rung?
            } else {
                // A query on the session would show as well that it lives, but while one is under way sqlx keeps all
                // notifications that come, without a bound.
                if let Err(error) = self.store.notify().await {
                    tracing::debug!(error = chain(&error), "cannot test the listening session");
                    continue; // that says nothing of the session
                }
                timeout(ANSWER, session.try_recv()).await.map_err(|_| SessionEnd::Silent)??
            };
            self.hear(rung.ok_or(SessionEnd::Closed)?.payload());
        }
    }

    /// Sees to it that nothing is served any more that the doorbell says has changed. What was written here is not
    /// served since it was written. A flood of names sends to the log, as a notification without names does.
    fn hear(&self, content: &str) {
        let now = Instant::now();
        if !self.notified().has_room(now) {
            return self.bell.notify_one();
        }
        let changed = match self.store.ring(content) {
            Ring::Unnamed => return self.bell.notify_one(),
            Ring::Own(changed) => changed,
            Ring::Others(changed) => {
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

    /// Rings for what was written here. What is written while it rings is told by the next ring.
    async fn ring(&self) -> Infallible {
        loop {
            self.store.rung().await;
            if let Err(error) = self.store.notify().await {
                tracing::debug!(error = chain(&error), "the doorbell did not ring");
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a millisecond is precise enough")]
fn unix_seconds() -> f64 {
    Utc::now().timestamp_millis() as f64 / 1000.0
}
