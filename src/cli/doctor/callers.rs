//! Whether the file of callers on disk is what the running service has in force, and who may write it.

use super::finding::Finding;
use crate::{cli::probe, config::Settings, server::auth::fingerprint};
use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

const WHAT: &str = "callers file";
const IN_FORCE: &str = "entitlements_callers_in_force";
/// How long the service may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The bits of a mode that let group and others write.
const WRITABLE: u32 = 0o022;

/// What there is to say of the file, if there is one. The check of the settings reports a file that cannot be used.
pub(super) async fn all(settings: &Settings) -> Vec<Finding> {
    let Some(file) = &settings.doors.callers else { return Vec::new() };
    let Ok(content) = fs::read(file) else { return Vec::new() };
    let speaks_tls = settings.doors.internal_tls_cert.is_some();
    let service = probe::url(settings.internal_listen, speaks_tls);
    let in_force = probe::gauge(&service, IN_FORCE, TIMEOUT).await;
    let compared = compare(file, &service, fingerprint(&content), in_force);
    std::iter::once(compared).chain(writable(file)).collect()
}

fn compare(file: &Path, service: &str, on_disk: u64, in_force: Option<u64>) -> Finding {
    let file = file.display();
    match in_force {
        None => Finding::ok(WHAT, format!("{file} has the fingerprint {on_disk}; no service runs")),
        Some(in_force) if in_force == on_disk => {
            Finding::ok(WHAT, format!("{file} is in force on {service}"))
        }
        Some(0) => Finding::fail(
            WHAT,
            format!("the service on {service} has no file of callers, so {file} is not in force"),
            "start it with CALLERS, or unset CALLERS here",
        ),
        Some(in_force) => Finding::fail(
            WHAT,
            format!(
                "{file} is not in force on {service}: {IN_FORCE} is {in_force}, not {on_disk}; revoked keys may \
                 still work"
            ),
            "its log says whether it can read the file; in a container, mount the file's folder, not the file",
        ),
    }
}

/// A file that others than its owner may write.
fn writable(file: &Path) -> Option<Finding> {
    let mode = fs::metadata(file).ok()?.mode();
    (mode & WRITABLE != 0).then(|| {
        let seen = format!("{} can be written by others than its owner", file.display());
        Finding::warn(WHAT, seen, "chmod go-w: a user who can write it can let callers in")
    })
}
