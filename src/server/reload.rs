//! Files that are read again when they change, so that keys and certificates are replaced without a restart.
//!
//! What was read last and can be used stays in force: a content that is broken, or a file that is gone, is told of
//! once and changes nothing. Files are compared by content, not by date: those that Kubernetes mounts are links whose
//! targets are swapped.

use crate::telemetry::chain;
use anyhow::Context;
use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use std::{
    convert::Infallible,
    fs, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, task::spawn_blocking, time::sleep};

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Makes something of the contents of files.
type Read<T> = Box<dyn Fn(&[Vec<u8>]) -> anyhow::Result<T> + Send + Sync>;

/// Something read from files, in the newest form that can be used.
pub struct Reread<T> {
    name: &'static str,
    files: Vec<PathBuf>,
    read: Read<T>,
    /// What the files said at first.
    first: Content,
    current: ArcSwap<T>,
    generation: AtomicU64,
    changed: watch::Sender<()>,
    is_broken: AtomicBool,
}

impl<T> Reread<T> {
    /// Reads the files for the first time; `name` is of the setting that names them.
    pub fn new(name: &'static str, files: Vec<PathBuf>, read: Read<T>) -> anyhow::Result<Self> {
        let first = Content::of(&files);
        let current = first.read(&read).context(name)?;
        Ok(Self {
            name,
            files,
            read,
            first,
            current: ArcSwap::from_pointee(current),
            generation: AtomicU64::new(0),
            changed: watch::Sender::default(),
            is_broken: AtomicBool::new(false),
        })
    }

    /// What is in force.
    pub fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Grows after another content has come in force: who has looked at [`Reread::current`] since it read this
    /// number has not missed what came before the number changed.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Notifies of each content that comes in force after this call.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether the files changed and could not be used, so that an older content is in force.
    pub fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    /// Looks at the files again and again, for ever.
    pub async fn follow(&self) -> Infallible {
        let mut seen = self.first.digest();
        while !self.files.is_empty() {
            sleep(LOOK_EVERY).await;
            let files = self.files.clone();
            let Ok(content) = spawn_blocking(move || Content::of(&files)).await else { continue };
            if content.digest() != seen {
                seen = content.digest();
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
                tracing::info!(setting = name, "{name} has changed, and is in force");
            }
            Err(error) => tracing::error!(
                setting = name,
                error = chain(error.as_ref()),
                "{name} has changed and cannot be used: what was there before stays in force"
            ),
        }
    }
}

/// What files say, or why they cannot be read.
struct Content(Result<Vec<Vec<u8>>, String>);

impl Content {
    fn of(files: &[PathBuf]) -> Self {
        // A pipe would be waited for, without an end.
        let is_file = |file: &PathBuf| match fs::metadata(file) {
            Ok(found) if !found.is_file() => Err(io::Error::other("it is not a regular file")),
            found => found.map(drop),
        };
        let read = |file: &PathBuf| {
            let content = is_file(file).and_then(|()| fs::read(file));
            content.map_err(|e| format!("cannot read {}: {e}", file.display()))
        };
        Self(files.iter().map(read).collect())
    }

    fn read<T>(&self, read: &Read<T>) -> anyhow::Result<T> {
        read(self.0.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?)
    }

    /// Remembered instead of the content, which may be a private key.
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
