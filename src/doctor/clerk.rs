//! Whether Clerk's Backend API takes the key, and whether it is that of the instance that sends the webhooks.

use super::{Finding, within};
use crate::{clerk::ApiError, config::Settings, telemetry::told};

const CLERK: &str = "Clerk's API";
/// Answers never wait for Clerk, so that nothing but healing stops.
const MEANWHILE: &str = "webhooks and answers go on; catalog and accounts are not healed meanwhile";

/// `webhooks` is the instance of the newest delivery.
pub(super) async fn look(settings: &Settings, webhooks: Option<String>) -> Finding {
    let api = match settings.backend.api() {
        Ok(Some(api)) => api,
        Ok(None) => {
            let seen = "no CLERK_SECRET_KEY: what webhooks never brought is not healed";
            return Finding::ok(CLERK, seen);
        }
        Err(error) => {
            let way_out = "set both as their manual says, or neither";
            return Finding::fail(CLERK, told(error.as_ref()), way_out);
        }
    };
    within(CLERK, MEANWHILE, async { judge(api.instance().await, webhooks) }).await
}

fn judge(answer: Result<Option<String>, ApiError>, webhooks: Option<String>) -> Finding {
    match (answer, webhooks) {
        (Ok(Some(key)), Some(webhooks)) if key != webhooks => Finding::fail(
            CLERK,
            format!("the key is of instance {key}, but the webhooks come from {webhooks}"),
            "set CLERK_SECRET_KEY of the instance that sends the webhooks",
        ),
        (Ok(Some(key)), Some(_)) => {
            Finding::ok(CLERK, format!("the key is of instance {key}, as the webhooks are"))
        }
        (Ok(Some(key)), None) => Finding::ok(
            CLERK,
            format!("the key is of instance {key}; no delivery says yet where it comes from"),
        ),
        (Ok(None), _) => Finding::ok(CLERK, "the key is taken; Clerk does not tell its instance"),
        (Err(error @ (ApiError::Refused(_) | ApiError::Setting(_))), _) => {
            let way_out = "copy the key anew from the API keys page of Clerk's dashboard";
            Finding::fail(CLERK, error.to_string(), way_out)
        }
        (Err(error @ (ApiError::Unavailable(_) | ApiError::Unexpected(_))), _) => {
            let way_out = format!("check CLERK_API_URL and the way out to it; {MEANWHILE}");
            Finding::warn(CLERK, error.to_string(), way_out)
        }
    }
}
