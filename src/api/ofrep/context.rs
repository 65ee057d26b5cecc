//! Parses the subjects of an evaluation context.
//!
//! `targetingKey` is the id of a Clerk user or organization; the attributes `userId` and `orgId` add the other one, for
//! the union of a user and the active organization. All other attributes are ignored.

use super::Fault;
use crate::{
    check::SubjectsBuf,
    domain::{Kind, Subject},
};
use serde_json::{Map, Value};

/// The subjects that the context in a body names.
pub(super) fn subjects(body: &[u8]) -> Result<SubjectsBuf, Fault> {
    let context = context(body)?;
    let target = match text(&context, "targetingKey")? {
        Some(id) => id
            .parse::<Subject>()
            .map_err(|_| invalid("targetingKey must be a Clerk id, `user_…` or `org_…`".into()))?,
        None => return Err(no_target()),
    };
    let user = named(&context, "userId", Kind::User, &target)?;
    let organization = named(&context, "orgId", Kind::Organization, &target)?;
    SubjectsBuf::of(user, organization).ok_or_else(no_target)
}

fn context(body: &[u8]) -> Result<Map<String, Value>, Fault> {
    let unreadable = |details: String| Fault::bad("PARSE_ERROR", "parse_error", details);
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
            Err(missing("context is missing, and its targetingKey with it"))
        }
        Some(_) => Err(invalid("context must be an object".into())),
    }
}

/// The subject of one kind, from the targeting key or an attribute; if both name one, they must agree.
fn named(
    context: &Map<String, Value>,
    name: &str,
    kind: Kind,
    target: &Subject,
) -> Result<Option<Subject>, Fault> {
    let target = Some(target).filter(|target| target.kind() == kind).cloned();
    let Some(id) = text(context, name)? else { return Ok(target) };
    let named = Subject::of(kind, id).map_err(|error| invalid(format!("{name} {error}")))?;
    match target {
        Some(target) if target != named => {
            Err(invalid(format!("{name} and targetingKey name two different subjects")))
        }
        _ => Ok(Some(named)),
    }
}

/// An optional attribute that must be a string; "" and null count as absent.
fn text<'c>(context: &'c Map<String, Value>, name: &str) -> Result<Option<&'c str>, Fault> {
    match context.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(&**text).filter(|text| !text.is_empty())),
        Some(_) => Err(invalid(format!("{name} must be a string"))),
    }
}

fn no_target() -> Fault {
    missing("context.targetingKey is missing")
}

fn missing(details: &str) -> Fault {
    let details = format!("{details}: set it to the Clerk user or organization to evaluate for");
    Fault::bad("TARGETING_KEY_MISSING", "targeting_key_missing", details)
}

fn invalid(details: String) -> Fault {
    Fault::bad("INVALID_CONTEXT", "invalid_context", details)
}
