//! Checks whether the running service has the callers file on disk in force, and who may write the file.

use super::finding::{Finding, REQUEST_TIMEOUT};
use crate::{
    cli::probe::{self, CALLERS_IN_FORCE},
    config::Settings,
    server::auth::fingerprint,
};
use std::{fs, os::unix::fs::MetadataExt, path::Path};

const WHAT: &str = "callers file";
/// The permission bits that let group and others write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Checks the callers file, if one is set. The check of the settings reports a file that cannot be used.
pub(super) async fn all(settings: &Settings) -> Vec<Finding> {
    let Some(file) = &settings.listeners.callers else { return Vec::new() };
    if !file.is_file() {
        return Vec::new(); // reading a pipe could block forever
    }
    let Ok(content) = fs::read(file) else { return Vec::new() };
    let speaks_tls = settings.listeners.operator_tls_cert.is_some();
    let service = probe::url(settings.operator_listen, speaks_tls);
    let in_force = probe::gauge(&service, CALLERS_IN_FORCE, REQUEST_TIMEOUT).await;
    let compared = compare(file, &service, fingerprint(&content), in_force);
    std::iter::once(compared).chain(writable(file)).collect()
}

fn compare(file: &Path, service: &str, on_disk: u64, in_force: Option<u64>) -> Finding {
    let file = file.display();
    match in_force {
        None => Finding::ok(
            WHAT,
            format!("{file} has the fingerprint {on_disk}; no service is running"),
        ),
        Some(in_force) if in_force == on_disk => {
            Finding::ok(WHAT, format!("{file} is in force on {service}"))
        }
        Some(0) => Finding::fail(
            WHAT,
            format!("the service on {service} has no callers file, so {file} is not in force"),
            "start the service with ENTITLEMENTS_CALLERS, or unset ENTITLEMENTS_CALLERS here",
        ),
        Some(in_force) => Finding::fail(
            WHAT,
            format!(
                "{file} is not in force on {service}: {CALLERS_IN_FORCE} is {in_force}, not {on_disk}; revoked \
                 keys may still work"
            ),
            "see the log of the service for errors; in a container, mount the folder of the file, not the file",
        ),
    }
}

/// Warns if other users than the owner can write the file.
fn writable(file: &Path) -> Option<Finding> {
    let mode = fs::metadata(file).ok()?.mode();
    (mode & WRITABLE_BY_OTHERS != 0).then(|| {
        let detail = format!("{} can be written by other users than its owner", file.display());
        Finding::warn(WHAT, detail, "chmod go-w: a user who can write it can add callers")
    })
}
