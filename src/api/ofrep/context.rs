//! Parses the evaluation context in a body.

use super::OfrepError;
use crate::{
    api::openfeature::{self, ContextFault},
    check::SubjectsBuf,
};
use serde_json::{Map, Value};

/// The subjects that the context in a body names.
pub(super) fn subjects(body: &[u8]) -> Result<SubjectsBuf, OfrepError> {
    let context = context(body)?;
    openfeature::subjects(&context).map(Into::into).map_err(|faults| {
        let is_key_missing = faults.iter().any(|fault| fault.is_key_missing);
        let text = |fault: &ContextFault| format!("context.{} {}", fault.attribute, fault.reason);
        let details = faults.iter().map(text).collect::<Vec<_>>().join("; ");
        if is_key_missing { key_missing(details) } else { invalid(details) }
    })
}

fn context(body: &[u8]) -> Result<Map<String, Value>, OfrepError> {
    let unreadable = |details: String| OfrepError::bad("PARSE_ERROR", "parse_error", details);
    let body = if body.is_empty() { b"{}" } else { body };
    let parsed = serde_json::from_slice(body);
    let parsed =
        parsed.map_err(|error| unreadable(format!("the body is not valid JSON: {error}")))?;
    let Value::Object(mut request) = parsed else {
        return Err(unreadable("the body must be a JSON object with a `context`".into()));
    };
    match request.remove("context") {
        Some(Value::Object(context)) => Ok(context),
        None | Some(Value::Null) => {
            Err(key_missing("context is missing, and its targetingKey with it".into()))
        }
        Some(_) => Err(invalid("context must be an object".into())),
    }
}

fn key_missing(details: String) -> OfrepError {
    OfrepError::bad("TARGETING_KEY_MISSING", "targeting_key_missing", details)
}

fn invalid(details: String) -> OfrepError {
    OfrepError::bad("INVALID_CONTEXT", "invalid_context", details)
}
