//! A checkout in which `dev` runs, also as another user of the machine.

use crate::{
    support::database::Db,
    support::process::signal,
    support::service::{TIMEOUT, eventually},
    support::skip::skip_without_root,
};
use nix::unistd::User;
use rustix::process::{Signal, geteuid};
use sqlx::{Connection, PgConnection, Row};
use std::{
    fs::{self, Permissions},
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Stdio,
};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

/// A user id that is neither root nor used on this machine.
pub const ATTACKER: u32 = 4343;

/// The Postgres binaries of the tests, and their major version.
pub struct Binaries {
    pub bin: String,
    pub major: u32,
}

impl Binaries {
    async fn of_tests() -> Self {
        let mut db = PgConnection::connect(&Db::admin_url()).await.unwrap();
        let found = "select setting, current_setting('server_version_num')::int / 10000 from pg_config \
                     where name = 'BINDIR'";
        let found = sqlx::query(found).fetch_one(&mut db).await.unwrap();
        Self { bin: found.get(0), major: found.get::<i32, _>(1).try_into().unwrap() }
    }
}

/// A checkout in which a user runs `dev`.
pub struct Checkout {
    pub folder: TempDir,
    pub below: PathBuf,
    pub user: Option<User>,
    pub postgres: Binaries,
}

impl Checkout {
    /// A checkout of the user of the tests, which only that user can enter.
    pub async fn new() -> Self {
        let folder = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
        mode(folder.path(), 0o700);
        let below = folder.path().canonicalize().unwrap();
        Self { folder, below, user: None, postgres: Binaries::of_tests().await }
    }

    /// A checkout of `daemon`, in a folder whose name has this length. `None`: this user cannot run processes as
    /// another user.
    pub async fn of_daemon(length: usize) -> Option<Self> {
        let user = User::from_name("daemon").ok().flatten();
        let user = user.filter(|user| runs_as(user.uid.as_raw()));
        if user.is_none() {
            skip_without_root();
        }
        let mut checkout = Self { user: Some(user?), ..Self::new().await };
        checkout.below.push("c".repeat(length));
        fs::create_dir(&checkout.below).unwrap();
        // Copies the binary to a place that the user can reach.
        fs::copy(env!("CARGO_BIN_EXE_entitlements"), checkout.binary()).unwrap();
        let (uid, gid) = checkout.ids();
        for path in [checkout.folder.path(), &checkout.below] {
            chown(path, Some(uid), Some(gid)).unwrap();
        }
        Some(checkout)
    }

    pub fn ids(&self) -> (u32, u32) {
        let user = self.user.as_ref().unwrap();
        (user.uid.as_raw(), user.gid.as_raw())
    }

    pub fn binary(&self) -> PathBuf {
        match self.user {
            Some(_) => self.folder.path().join("entitlements"),
            None => env!("CARGO_BIN_EXE_entitlements").into(),
        }
    }

    /// The folder of `dev`'s data.
    pub fn kept(&self) -> PathBuf {
        self.below.join(".entitlements")
    }

    /// The folder of the Postgres server.
    pub fn home(&self) -> PathBuf {
        self.kept().join(format!("postgres-{}", self.postgres.major))
    }

    /// The server's folder when root runs `dev`, because the server cannot enter this checkout.
    pub fn elsewhere(&self) -> Elsewhere {
        Elsewhere(format!("/var/tmp/entitlements-{:016x}", hash(&self.kept())).into())
    }

    pub fn dev(&self) -> Command {
        let mut dev = Command::new(self.binary());
        dev.arg("dev").current_dir(&self.below).env_clear();
        dev.env("ENTITLEMENTS_POSTGRES_BIN", &self.postgres.bin)
            .env("ENTITLEMENTS_LOG_FORMAT", "json");
        dev.envs(
            [
                "ENTITLEMENTS_API_LISTEN",
                "ENTITLEMENTS_WEBHOOK_LISTEN",
                "ENTITLEMENTS_OPERATOR_LISTEN",
            ]
            .map(|v| (v, "127.0.0.1:0")),
        );
        if self.user.is_some() {
            let (uid, gid) = self.ids();
            dev.uid(uid).gid(gid);
        }
        dev.stdin(Stdio::null()).kill_on_drop(true);
        dev
    }

    /// Starts `dev`, and waits until everything runs.
    pub async fn start(&self) -> Dev {
        let log = self.folder.path().join("log");
        let file = fs::File::create(&log).unwrap();
        let mut child = self.dev().stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        let output = || fs::read_to_string(&log).unwrap();
        eventually("`dev` runs", async || {
            assert_eq!(child.try_wait().unwrap(), None, "{}", output());
            output().contains("and start `dev` again")
        })
        .await;
        let url = |line: &str| Some(line.trim().strip_prefix("database  ")?.to_owned());
        let url = output().lines().find_map(url);
        Dev { child, url: url.expect("the banner names the database") }
    }

    /// The error of `dev` when it refuses to start.
    pub async fn refusal(&self) -> String {
        let result =
            timeout(TIMEOUT, self.dev().output()).await.expect("`dev` starts all the same");
        let result = result.unwrap();
        let output = String::from_utf8(result.stderr).unwrap();
        assert_eq!(result.status.code(), Some(2), "{output}");
        output
    }

    pub fn secret(&self) -> String {
        fs::read_to_string(self.kept().join("webhook-signing-secret")).unwrap()
    }
}

/// A running `dev`.
pub struct Dev {
    pub child: Child,
    pub url: String,
}

impl Dev {
    pub async fn stop(mut self) {
        signal(self.child.id().unwrap().try_into().unwrap(), Signal::TERM);
        assert!(self.child.wait().await.unwrap().success());
    }

    /// The folder of its socket.
    pub fn sockets(&self) -> PathBuf {
        let host = self.url.split_once("host=").unwrap().1.split('&').next().unwrap();
        percent_encoding::percent_decode_str(host).decode_utf8().unwrap().into_owned().into()
    }

    /// Checks that Postgres rejects a connection of the user of these tests.
    pub async fn refuses_us(&self) -> String {
        format!("{}", PgConnection::connect(&self.url).await.unwrap_err())
    }
}

/// A folder outside of a checkout, removed afterwards.
pub struct Elsewhere(pub PathBuf);

impl Elsewhere {
    pub fn clear(&self) {
        if self.0.is_symlink() {
            fs::remove_file(&self.0).unwrap();
        } else if self.0.exists() {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The predictable folder names that older versions used in `/tmp` and `/var/tmp`.
pub fn hash(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

pub fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

pub fn made(path: &Path, bits: u32) {
    fs::create_dir(path).unwrap();
    mode(path, bits);
}

/// Whether processes can be started as this user.
fn runs_as(uid: u32) -> bool {
    use std::os::unix::process::CommandExt;
    geteuid().is_root() && std::process::Command::new("true").uid(uid).status().is_ok()
}
