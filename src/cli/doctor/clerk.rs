//! Checks whether Clerk's Backend API accepts the key, and whether key, setting and webhooks are of one instance.

use super::finding::{Finding, within};
use crate::{app, clerk::BackendApiError, config::Settings, telemetry::error_chain};

const CLERK: &str = "Clerk's API";
const INSTANCE: &str = "Clerk instance";
/// Checks never wait for Clerk, so only repairs stop.
const MEANWHILE: &str =
    "webhooks and checks go on; catalog and accounts are not refreshed from Clerk meanwhile";

/// Checks the key, and the instances of the newest deliveries.
pub(super) async fn check(settings: &Settings, found: &[String], report: &mut impl FnMut(Finding)) {
    let set = settings.backend.instance().ok().flatten();
    let (finding, key) = key(settings, set.as_deref()).await;
    report(finding);
    if let Some(finding) = instances(set.or(key).as_deref(), found) {
        report(finding);
    }
}

/// Checks the key; also returns its instance.
async fn key(settings: &Settings, set: Option<&str>) -> (Finding, Option<String>) {
    let api = match settings.backend.access().map(|access| app::backend_api(&access)).transpose() {
        Ok(Some(api)) => api,
        Ok(None) => {
            let detail = "no CLERK_SECRET_KEY: accounts are not repaired after lost webhooks";
            return (Finding::ok(CLERK, detail), None);
        }
        Err(error) => {
            let fix =
                "correct CLERK_SECRET_KEY and CLERK_API_URL (see `serve --help`), or unset both";
            return (Finding::fail(CLERK, error_chain(error.as_ref()), fix), None);
        }
    };
    let mut key = None;
    let finding = within(CLERK, MEANWHILE, async {
        let answer = api.instance().await;
        key = answer.as_ref().ok().cloned().flatten();
        judge(answer, set)
    });
    (finding.await, key)
}

fn judge(answer: Result<Option<String>, BackendApiError>, set: Option<&str>) -> Finding {
    match (answer, set) {
        (Ok(Some(key)), Some(set)) if key != set => Finding::fail(
            CLERK,
            format!("the key is of instance {key}, but CLERK_INSTANCE is {set}"),
            "set CLERK_SECRET_KEY and CLERK_INSTANCE of the same instance",
        ),
        (Ok(Some(key)), _) => Finding::ok(CLERK, format!("the key is of instance {key}")),
        (Ok(None), _) => {
            Finding::ok(CLERK, "the key is accepted; Clerk does not report its instance")
        }
        (Err(error @ (BackendApiError::Refused(_) | BackendApiError::Setting(_))), _) => {
            let fix = "copy the key again from the API keys page of Clerk's dashboard";
            Finding::fail(CLERK, error.to_string(), fix)
        }
        (Err(error @ BackendApiError::NotEnabled(_)), _) => {
            Finding::warn(CLERK, error.to_string(), MEANWHILE)
        }
        (Err(error @ (BackendApiError::Unavailable(_) | BackendApiError::Unexpected(_))), _) => {
            let fix = format!("check CLERK_API_URL and the network route to it; {MEANWHILE}");
            Finding::warn(CLERK, error.to_string(), fix)
        }
    }
}

/// Checks that all deliveries are of the served instance or, if none is configured, of one instance.
fn instances(served: Option<&str>, found: &[String]) -> Option<Finding> {
    let others: Vec<_> = found.iter().map(String::as_str).filter(|i| Some(*i) != served).collect();
    match (served, &others[..]) {
        (None, []) => None,
        (None, [one]) => Some(Finding::ok(INSTANCE, format!("all deliveries are of {one}"))),
        (None, several) => {
            let detail = format!("deliveries are of several instances: {}", several.join(", "));
            Some(Finding::warn(INSTANCE, detail, "set CLERK_INSTANCE to the one to serve"))
        }
        (Some(served), []) => Some(Finding::ok(INSTANCE, format!("{served} is served"))),
        (Some(served), others) => {
            let others = others.join(", ");
            let detail = format!("{served} is served, but deliveries are of {others}");
            let fix = "such deliveries are parked; if they are not examples, remove the webhook endpoint from the \
                       other instance, or correct CLERK_INSTANCE and CLERK_SECRET_KEY";
            Some(Finding::warn(INSTANCE, detail, fix))
        }
    }
}
