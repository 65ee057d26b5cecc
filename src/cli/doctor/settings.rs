//! What can be told of the settings alone.

use super::finding::Finding;
use crate::{
    config::Settings,
    telemetry::{self, told},
};

/// Clerk's keys have as many bytes.
const STRONG: usize = 24;

/// Settings that have checks of their own.
const TOLD: [&str; 3] = ["DATABASE_URL", "CLERK_API_URL", "CLERK_SECRET_KEY"];

const SECRETS: &str = "signing secrets";
const CATALOG: &str = "catalog file";
const REST: &str = "settings";

pub(super) fn all(settings: &Settings) -> Vec<Finding> {
    let mut found = vec![secrets(settings), catalog(settings)];
    let unusable = telemetry::log_filter(&settings.log)
        .map(drop)
        .and_then(|()| settings.check().map(drop))
        .err()
        .map(|error| told(error.as_ref()));
    match unusable {
        None => found.push(Finding::ok(REST, "all of them can work together")),
        // Told already, by the check that knows more of it.
        Some(error) if TOLD.iter().any(|name| error.contains(name)) => {}
        Some(error) if found.iter().any(|finding| finding.seen == error) => {}
        Some(error) => {
            let way_out = "`entitlements serve --help` is the manual of all settings";
            found.push(Finding::fail(REST, error, way_out));
        }
    }
    found
}

fn secrets(settings: &Settings) -> Finding {
    match settings.secrets.parse() {
        Err(error) => {
            let way_out = "give it to `serve` as CLERK_WEBHOOK_SIGNING_SECRET, while rotating the old and the new one";
            Finding::fail(SECRETS, told(error.as_ref()), way_out)
        }
        Ok(secrets) => {
            let weakest = secrets.iter().map(crate::clerk::Secret::bytes).min().unwrap_or(0);
            let seen = format!("{}, of {weakest} bytes at least", count(secrets.len(), "secret"));
            if weakest < STRONG {
                let way_out =
                    "Clerk's have 24: copy it anew from the endpoint's page under Webhooks";
                Finding::warn(SECRETS, seen, way_out)
            } else {
                Finding::ok(SECRETS, seen)
            }
        }
    }
}

fn catalog(settings: &Settings) -> Finding {
    match settings.catalog_file() {
        Err(error) => Finding::fail(
            CATALOG,
            told(error.as_ref()),
            "write it as in catalog.example.toml, and try it with `entitlements catalog plan FILE`",
        ),
        Ok(None) => Finding::ok(CATALOG, "none is named: what is in force in the database counts"),
        Ok(Some((catalog, name))) => {
            Finding::ok(CATALOG, format!("{name} says {}", count(catalog.plans(), "plan")))
        }
    }
}

/// So many of something, in words.
pub(super) fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
