//! Checks of the settings, without the network.

use super::finding::Finding;
use crate::{
    app,
    cli::{render::counted, variables},
    config::Settings,
    telemetry::{self, error_chain},
};

/// The length of Clerk's signing secrets, in bytes.
const CLERK_KEY_LEN: usize = 24;

/// Settings whose errors are reported by another check, which knows more.
const CHECKED_ELSEWHERE: [&str; 3] = ["DATABASE_URL", "CLERK_API_URL", "CLERK_SECRET_KEY"];

const SECRETS: &str = "signing secrets";
const CATALOG: &str = "catalog file";
const REST: &str = "settings";

pub(super) fn all(settings: &Settings) -> Vec<Finding> {
    let mut found = vec![secrets(settings), catalog(settings)];
    found.extend(
        variables::unknown()
            .iter()
            .map(|unknown| Finding::warn(REST, unknown.is_ignored(), unknown.fix())),
    );
    let faults = faults(settings);
    if faults.is_empty() {
        found.push(Finding::ok(REST, "all are valid"));
    }
    for fault in faults {
        let is_checked_elsewhere = CHECKED_ELSEWHERE.iter().any(|name| fault.contains(name));
        if !is_checked_elsewhere && found.iter().all(|finding| finding.detail != fault) {
            let fix = "`entitlements serve --help` describes all settings";
            found.push(Finding::fail(REST, fault, fix));
        }
    }
    found
}

/// The first error of the validation, and all errors of the files and keys that the settings name.
fn faults(settings: &Settings) -> Vec<String> {
    let invalid = telemetry::log_filter(&settings.log).map(drop);
    let invalid = invalid.and_then(|()| settings.check().map(drop)).err();
    let sessions = settings.sessions.sessions().ok().flatten();
    let unusable = app::faults(&settings.listeners.files(), sessions);
    let errors = invalid.into_iter().chain(unusable);
    errors.map(|error| error_chain(error.as_ref())).collect()
}

fn secrets(settings: &Settings) -> Finding {
    match settings.secrets.parse() {
        Err(error) => {
            let fix = "set CLERK_WEBHOOK_SIGNING_SECRET; during a rotation, to the new and the old secret";
            Finding::fail(SECRETS, error_chain(error.as_ref()), fix)
        }
        Ok(secrets) => {
            let weakest = secrets.iter().map(crate::clerk::SigningSecret::bytes).min().unwrap_or(0);
            let detail =
                format!("{}, of at least {weakest} bytes", counted(secrets.len(), "secret"));
            if weakest < CLERK_KEY_LEN {
                let fix = "Clerk's secrets have 24 bytes: copy it again from the endpoint's page under Webhooks";
                Finding::warn(SECRETS, detail, fix)
            } else {
                Finding::ok(SECRETS, detail)
            }
        }
    }
}

fn catalog(settings: &Settings) -> Finding {
    match settings.catalog_file() {
        Err(error) => Finding::fail(
            CATALOG,
            error_chain(error.as_ref()),
            "correct the file (`entitlements init FOLDER` writes an example), and try it with `entitlements catalog plan FILE`",
        ),
        Ok(None) => Finding::ok(CATALOG, "no file is set: the catalog in the database is used"),
        Ok(Some((catalog, name))) => {
            Finding::ok(CATALOG, format!("{name} has {}", counted(catalog.plans(), "plan")))
        }
    }
}
