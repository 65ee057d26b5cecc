//! Whether Clerk's Backend API takes the key, and whether key, setting and webhooks are of one instance.

use super::finding::{Finding, within};
use crate::{clerk::ApiError, config::Settings, telemetry::told};

const CLERK: &str = "Clerk's API";
const INSTANCE: &str = "Clerk instance";
/// Answers never wait for Clerk, so that nothing but healing stops.
const MEANWHILE: &str = "webhooks and answers go on; catalog and accounts are not healed meanwhile";

/// `seen` are the instances of the newest deliveries.
pub(super) async fn look(settings: &Settings, seen: &[String], tell: &mut impl FnMut(Finding)) {
    let set = settings.backend.instance().ok().flatten();
    let (finding, key) = key(settings, set.as_deref()).await;
    tell(finding);
    if let Some(finding) = instances(set.or(key).as_deref(), seen) {
        tell(finding);
    }
}

/// Whether the key is taken, and which instance it is of.
async fn key(settings: &Settings, set: Option<&str>) -> (Finding, Option<String>) {
    let api = match settings.backend.api() {
        Ok(Some(api)) => api,
        Ok(None) => {
            let seen = "no CLERK_SECRET_KEY: what webhooks never brought is not healed";
            return (Finding::ok(CLERK, seen), None);
        }
        Err(error) => {
            let fix = "set both as their manual says, or neither";
            return (Finding::fail(CLERK, told(error.as_ref()), fix), None);
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

fn judge(answer: Result<Option<String>, ApiError>, set: Option<&str>) -> Finding {
    match (answer, set) {
        (Ok(Some(key)), Some(set)) if key != set => Finding::fail(
            CLERK,
            format!("the key is of instance {key}, but CLERK_INSTANCE is {set}"),
            "set CLERK_SECRET_KEY and CLERK_INSTANCE of the same instance",
        ),
        (Ok(Some(key)), _) => Finding::ok(CLERK, format!("the key is of instance {key}")),
        (Ok(None), _) => Finding::ok(CLERK, "the key is taken; Clerk does not tell its instance"),
        (Err(error @ (ApiError::Refused(_) | ApiError::Setting(_))), _) => {
            let fix = "copy the key anew from the API keys page of Clerk's dashboard";
            Finding::fail(CLERK, error.to_string(), fix)
        }
        (Err(error @ ApiError::NotEnabled(_)), _) => {
            Finding::warn(CLERK, error.to_string(), MEANWHILE)
        }
        (Err(error @ (ApiError::Unavailable(_) | ApiError::Unexpected(_))), _) => {
            let fix = format!("check CLERK_API_URL and the way out to it; {MEANWHILE}");
            Finding::warn(CLERK, error.to_string(), fix)
        }
    }
}

/// Whether deliveries come from the instance that is served, or from one alone.
fn instances(served: Option<&str>, seen: &[String]) -> Option<Finding> {
    let others: Vec<_> = seen.iter().map(String::as_str).filter(|i| Some(*i) != served).collect();
    match (served, &others[..]) {
        (None, []) => None,
        (None, [one]) => Some(Finding::ok(INSTANCE, format!("all deliveries are of {one}"))),
        (None, several) => {
            let seen = format!("deliveries of several instances are mixed: {}", several.join(", "));
            Some(Finding::warn(INSTANCE, seen, "set CLERK_INSTANCE to the one to serve"))
        }
        (Some(served), []) => Some(Finding::ok(INSTANCE, format!("{served} is served"))),
        (Some(served), others) => {
            let others = others.join(", ");
            let seen = format!("{served} is served, and deliveries came of {others}");
            let fix = "those are parked; if they are not examples, remove the webhook endpoint from the other \
                       instance, or set CLERK_INSTANCE and CLERK_SECRET_KEY of the right one";
            Some(Finding::warn(INSTANCE, seen, fix))
        }
    }
}
