//! Folders and files of our own on a machine that other users share.
//!
//! Another user may have taken a name in a shared folder such as `/tmp` before us. A folder or file is therefore
//! opened without following a link, and used only if it belongs to the expected user and is closed to others;
//! otherwise the error names it and the fix. An owner is changed only of a folder that this process made, and
//! opening a file never empties it.

use anyhow::{Context, ensure};
use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    process::geteuid,
};
use std::{
    fs::{self, File, Permissions},
    io,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown},
    },
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// The rights of a folder or file that group and others have to write in it.
const WRITABLE: u32 = 0o022;
/// All rights of group and others.
const ANY: u32 = 0o077;

/// A folder that was checked, and is held open.
#[derive(Debug)]
pub struct Folder {
    file: File,
    path: PathBuf,
    is_new: bool,
}

impl Folder {
    /// Opens a folder that belongs to this user and in which nobody else can write; makes it if it is missing. As
    /// root it lets other users pass, because Postgres, which runs as another user, has its own folder below.
    pub fn ours(path: &Path) -> anyhow::Result<Self> {
        let mode = if geteuid().is_root() { 0o711 } else { 0o700 };
        let folder = Self::open_or_make(path, mode)?;
        folder.check(geteuid().as_raw(), WRITABLE)?;
        Ok(folder)
    }

    /// Opens a folder that only the given user can enter; makes it, and gives it to that user, if it is missing.
    pub fn private(path: &Path, uid: u32, gid: u32) -> anyhow::Result<Self> {
        let folder = Self::open_or_make(path, 0o700)?;
        folder.give_to(uid, gid)?;
        folder.check(uid, ANY)?;
        Ok(folder)
    }

    /// Checks a folder as [`Folder::private`] does, and makes none.
    #[must_use]
    pub fn is_private(path: &Path, uid: u32) -> bool {
        Self::open(path, false).is_ok_and(|folder| folder.check(uid, ANY).is_ok())
    }

    /// Makes a private folder of a random name in a folder that users may share.
    pub fn fresh(parent: &Path) -> anyhow::Result<(TempDir, Self)> {
        check_shared(parent)?;
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("entitlements-").permissions(Permissions::from_mode(0o700));
        let made = builder.tempdir_in(parent);
        let made = made.with_context(|| format!("cannot make a folder in {}", parent.display()))?;
        let folder = Self::open(made.path(), true)?;
        folder.check(geteuid().as_raw(), ANY)?;
        Ok((made, folder))
    }

    /// Makes another user the owner, if this process made the folder.
    pub fn give_to(&self, uid: u32, gid: u32) -> anyhow::Result<()> {
        if self.is_new && uid != geteuid().as_raw() {
            fchown(&self.file, Some(uid), Some(gid))
                .with_context(|| format!("cannot give {} to uid {uid}", self.path.display()))?;
        }
        Ok(())
    }

    /// Opens a file in the folder to read it and to write at its end; makes it if it is missing. Only this user can
    /// read it.
    pub fn file(&self, name: &str) -> anyhow::Result<File> {
        let path = self.path.join(name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND;
        let file = open(&self.file, name.as_ref(), flags).map_err(|error| refusal(&path, error))?;
        ensure!(file.metadata()?.is_file(), "{} is not a regular file: remove it", path.display());
        check(&file, &path, geteuid().as_raw(), ANY)?;
        Ok(file)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open_or_make(path: &Path, mode: u32) -> anyhow::Result<Self> {
        let is_new = match fs::DirBuilder::new().mode(mode).create(path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot make {}", path.display()));
            }
        };
        let folder = Self::open(path, is_new)?;
        if is_new {
            folder.file.set_permissions(Permissions::from_mode(mode))?; // a umask may have taken some
        }
        Ok(folder)
    }

    fn open(path: &Path, is_new: bool) -> anyhow::Result<Self> {
        let file = open(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY);
        let file = file.map_err(|error| refusal(path, error))?;
        Ok(Self { file, path: path.to_owned(), is_new })
    }

    fn check(&self, owner: u32, forbidden: u32) -> anyhow::Result<()> {
        check(&self.file, &self.path, owner, forbidden)
    }
}

/// Refuses a shared folder, such as `/tmp`, in which other users can replace what we make.
pub fn check_shared(folder: &Path) -> anyhow::Result<()> {
    check_stays(folder, WRITABLE, "+t")
}

/// Refuses a folder in which every user of the machine can replace what we make.
pub fn check_not_open(folder: &Path) -> anyhow::Result<()> {
    check_stays(folder, 0o002, "o-w")
}

fn check_stays(folder: &Path, writable: u32, fix: &str) -> anyhow::Result<()> {
    let name = folder.display();
    let mode = fs::metadata(folder).with_context(|| name.to_string())?.mode() & 0o7777;
    ensure!(
        mode & writable == 0 || mode & 0o1000 != 0,
        "other users can replace what is in {name} (mode {mode:o}): run `chmod {fix} '{name}'` as its owner"
    );
    Ok(())
}

fn open(folder: impl AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(folder, path, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}

fn check(file: &File, path: &Path, owner: u32, forbidden: u32) -> anyhow::Result<()> {
    let found = file.metadata()?;
    ensure!(found.uid() == owner, "{}", of_another(path, found.uid(), owner));
    ensure!(
        found.mode() & forbidden == 0,
        "other users have rights on {} (mode {:o}): run `chmod {} '{}'`, or remove it",
        path.display(),
        found.mode() & 0o7777,
        if forbidden == WRITABLE { "go-w" } else { "go-rwx" },
        path.display()
    );
    Ok(())
}

/// Why a folder or file could not be opened.
fn refusal(path: &Path, error: rustix::io::Errno) -> anyhow::Error {
    let (name, us) = (path.display(), geteuid().as_raw());
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => {
            anyhow::anyhow!("{name} is a link, which another user may have made: remove it")
        }
        Ok(found) if found.uid() != us => anyhow::anyhow!(of_another(path, found.uid(), us)),
        _ => anyhow::Error::new(error).context(format!("cannot open {name}")),
    }
}

fn of_another(path: &Path, found: u32, wanted: u32) -> String {
    format!(
        "{} belongs to uid {found} and not to uid {wanted}: run as that user, or remove it",
        path.display()
    )
}
