//! Private folders and files on a machine with other users.
//!
//! Another user may already have created a name in a shared folder such as `/tmp`. A folder or file is therefore opened
//! without following a link, and used only if it belongs to the expected user and others have no rights on it;
//! otherwise the error names it and the fix. The owner is changed only for a folder that this process created, and
//! opening a file never truncates it.

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

/// The mode bits that let group and others write.
const WRITABLE: u32 = 0o022;
/// All mode bits of group and others.
const ANY: u32 = 0o077;

/// An open folder whose owner and mode were checked.
#[derive(Debug)]
pub struct Folder {
    file: File,
    path: PathBuf,
    is_new: bool,
}

impl Folder {
    /// Opens a folder that belongs to this user and in which no other user can write; creates it if it is missing. As
    /// root it is created so that other users can pass, because Postgres runs as another user and has its own folder
    /// below.
    pub fn ours(path: &Path) -> anyhow::Result<Self> {
        let mode = if geteuid().is_root() { 0o711 } else { 0o700 };
        let folder = Self::open_or_make(path, mode)?;
        folder.check(geteuid().as_raw(), WRITABLE)?;
        Ok(folder)
    }

    /// Opens a folder that only the given user can enter; creates it with that owner if it is missing.
    pub fn private(path: &Path, uid: u32, gid: u32) -> anyhow::Result<Self> {
        let folder = Self::open_or_make(path, 0o700)?;
        folder.give_to(uid, gid)?;
        folder.check(uid, ANY)?;
        Ok(folder)
    }

    /// Whether a folder exists that [`Folder::private`] would accept.
    #[must_use]
    pub fn is_private(path: &Path, uid: u32) -> bool {
        Self::open(path, false).is_ok_and(|folder| folder.check(uid, ANY).is_ok())
    }

    /// Creates a private folder with a random name in a folder that users may share.
    pub fn fresh(parent: &Path) -> anyhow::Result<(TempDir, Self)> {
        check_shared(parent)?;
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("entitlements-").permissions(Permissions::from_mode(0o700));
        let created = builder.tempdir_in(parent);
        let created =
            created.with_context(|| format!("cannot create a folder in {}", parent.display()))?;
        let folder = Self::open(created.path(), true)?;
        folder.check(geteuid().as_raw(), ANY)?;
        Ok((created, folder))
    }

    /// Changes the owner, if this process created the folder.
    pub fn give_to(&self, uid: u32, gid: u32) -> anyhow::Result<()> {
        if self.is_new && uid != geteuid().as_raw() {
            fchown(&self.file, Some(uid), Some(gid))
                .with_context(|| format!("cannot chown {} to uid {uid}", self.path.display()))?;
        }
        Ok(())
    }

    /// Opens a file in the folder for reading and appending; creates it if it is missing. Only this user may have
    /// rights on it.
    pub fn file(&self, name: &str) -> anyhow::Result<File> {
        let path = self.path.join(name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND;
        let file = open(&self.file, name.as_ref(), flags).map_err(|error| refusal(&path, error))?;
        ensure!(file.metadata()?.is_file(), "{} is not a regular file: remove it", path.display());
        check(&file, &path, geteuid().as_raw(), ANY)?;
        Ok(file)
    }

    /// The path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open_or_make(path: &Path, mode: u32) -> anyhow::Result<Self> {
        let is_new = match fs::DirBuilder::new().mode(mode).create(path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot create {}", path.display()));
            }
        };
        let folder = Self::open(path, is_new)?;
        if is_new {
            folder.file.set_permissions(Permissions::from_mode(mode))?; // the umask may have removed bits
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

/// Fails for a shared folder, such as `/tmp`, in which other users can replace files of this process.
pub fn check_shared(folder: &Path) -> anyhow::Result<()> {
    check_stays(folder, WRITABLE, "+t")
}

/// Fails for a folder in which every user of the machine can replace files of this process.
pub fn check_not_open(folder: &Path) -> anyhow::Result<()> {
    check_stays(folder, 0o002, "o-w")
}

fn check_stays(folder: &Path, writable: u32, fix: &str) -> anyhow::Result<()> {
    let name = folder.display();
    let mode = fs::metadata(folder).with_context(|| name.to_string())?.mode() & 0o7777;
    ensure!(
        mode & writable == 0 || mode & 0o1000 != 0,
        "other users can replace files in {name} (mode {mode:o}): run `chmod {fix} '{name}'` as its owner"
    );
    Ok(())
}

fn open(folder: impl AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(folder, path, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}

fn check(file: &File, path: &Path, owner: u32, forbidden: u32) -> anyhow::Result<()> {
    let found = file.metadata()?;
    ensure!(found.uid() == owner, "{}", wrong_owner(path, found.uid(), owner));
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
            anyhow::anyhow!("{name} is a link, which another user may have created: remove it")
        }
        Ok(found) if found.uid() != us => anyhow::anyhow!(wrong_owner(path, found.uid(), us)),
        _ => anyhow::Error::new(error).context(format!("cannot open {name}")),
    }
}

fn wrong_owner(path: &Path, found: u32, expected: u32) -> String {
    format!(
        "{} belongs to uid {found} and not to uid {expected}: run as uid {found}, or remove it",
        path.display()
    )
}
