//! Hot reload of files, so that keys and certificates are replaced without a restart.
//!
//! The last valid content stays active: an invalid content or a missing file is logged once and changes nothing. Files
//! are compared by content, not by date, because files that Kubernetes mounts are links whose targets are swapped.

use crate::telemetry::log_chain;
use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use std::{
    convert::Infallible,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, task::spawn_blocking, time::sleep};

/// The interval at which files are read and compared.
const FILE_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Parses the contents of the files. An error names the setting of the file at fault.
type ParseFile<T> = Box<dyn Fn(&[Vec<u8>]) -> anyhow::Result<T> + Send + Sync>;

/// A setting, and the file that it names.
pub type NamedFile = (&'static str, PathBuf);

/// A value parsed from files: the newest version that is valid.
pub struct HotReload<T> {
    name: &'static str,
    files: Vec<NamedFile>,
    read: ParseFile<T>,
    /// The digest of the content at start.
    first: [u8; 32],
    current: ArcSwap<T>,
    generation: AtomicU64,
    changed: watch::Sender<()>,
    is_broken: AtomicBool,
}

impl<T> HotReload<T> {
    /// Reads the files for the first time. `name` is the setting that the log names.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or `read` rejects the content.
    pub fn new(
        name: &'static str,
        files: Vec<NamedFile>,
        read: ParseFile<T>,
    ) -> anyhow::Result<Self> {
        let first = Content::of(&files);
        let current = first.read(&read)?;
        Ok(Self {
            name,
            files,
            read,
            first: first.digest(),
            current: ArcSwap::from_pointee(current),
            generation: AtomicU64::new(0),
            changed: watch::Sender::default(),
            is_broken: AtomicBool::new(false),
        })
    }

    /// The active value.
    pub fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Incremented after a new content becomes active. Read it before [`HotReload::current`]: while it has not changed
    /// since, that value is still the active one, or newer.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A receiver that is notified of each content that becomes active after this call.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether the last reload failed, so that an older content is active.
    pub fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    /// Polls the files and reloads them when they change; never returns.
    pub async fn watch(&self) -> Infallible {
        let mut last = self.first;
        while !self.files.is_empty() {
            sleep(FILE_POLL_INTERVAL).await;
            let files = self.files.clone();
            let Ok(content) = spawn_blocking(move || Content::of(&files)).await else { continue };
            if content.digest() != last {
                last = content.digest();
                self.replace(&content);
            }
        }
        std::future::pending().await
    }

    fn replace(&self, content: &Content) {
        let (name, new) = (self.name, content.read(&self.read));
        self.is_broken.store(new.is_err(), Ordering::Relaxed);
        match new {
            Ok(new) => {
                self.current.store(Arc::new(new));
                self.generation.fetch_add(1, Ordering::Release);
                self.changed.send_replace(());
                tracing::info!(setting = name, "{name}: reloaded");
            }
            Err(error) => tracing::error!(
                setting = name,
                error = log_chain(error.as_ref()),
                "{name}: reload failed, the previous content stays active"
            ),
        }
    }
}

/// The contents of the files, or why they cannot be read.
struct Content(Result<Vec<Vec<u8>>, String>);

impl Content {
    fn of(files: &[NamedFile]) -> Self {
        // Reading a pipe could block forever.
        let is_file = |file: &Path| match fs::metadata(file) {
            Ok(found) if !found.is_file() => Err(io::Error::other("not a regular file")),
            found => found.map(drop),
        };
        let read = |(setting, file): &NamedFile| {
            let content = is_file(file).and_then(|()| fs::read(file));
            content.map_err(|e| format!("{setting}: cannot read {}: {e}", file.display()))
        };
        Self(files.iter().map(read).collect())
    }

    fn read<T>(&self, read: &ParseFile<T>) -> anyhow::Result<T> {
        read(self.0.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?)
    }

    /// The digest to compare with. It is kept instead of the content, which may be a private key.
    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        match &self.0 {
            Ok(contents) => {
                for content in contents {
                    digest.update(Sha256::digest(content));
                }
            }
            Err(error) => digest.update(error),
        }
        digest.finalize().into()
    }
}
