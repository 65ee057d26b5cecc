//! An evaluation context into the subjects it names.
//!
//! `targetingKey` is a Clerk user or organization; the attributes `userId` and `orgId` add the other one, as for the
//! union of a user and the active organization. All other attributes are left alone.

use super::Fault;
use crate::{
    check::Whom,
    domain::{Kind, Subject},
};
use serde_json::{Map, Value};

/// Whom the context of a request names.
pub(super) fn whom(body: &[u8]) -> Result<Whom, Fault> {
    let context = context(body)?;
    let target = match text(&context, "targetingKey")? {
        Some(id) => id
            .parse::<Subject>()
            .map_err(|_| invalid("targetingKey must be a Clerk id, `user_…` or `org_…`".into()))?,
        None => return Err(nobody()),
    };
    let user = named(&context, "userId", Kind::User, &target)?;
    let organization = named(&context, "orgId", Kind::Organization, &target)?;
    Whom::of(user, organization).ok_or_else(nobody)
}

fn context(body: &[u8]) -> Result<Map<String, Value>, Fault> {
    let unreadable = |details: String| Fault::bad("PARSE_ERROR", "parse_error", details);
    let body = if body.is_empty() { b"{}" } else { body };
    let parsed = serde_json::from_slice(body);
    let parsed = parsed.map_err(|error| unreadable(format!("the body is no JSON: {error}")))?;
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

/// The subject of one kind: the target, or who an attribute names; both must agree.
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

/// An attribute that must be text where it is there; "" and null are as good as absent.
fn text<'c>(context: &'c Map<String, Value>, name: &str) -> Result<Option<&'c str>, Fault> {
    match context.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(&**text).filter(|text| !text.is_empty())),
        Some(_) => Err(invalid(format!("{name} must be a string"))),
    }
}

fn nobody() -> Fault {
    missing("context.targetingKey is missing")
}

fn missing(details: &str) -> Fault {
    let details = format!("{details}: set it to the Clerk user or organization to evaluate for");
    Fault::bad("TARGETING_KEY_MISSING", "targeting_key_missing", details)
}

fn invalid(details: String) -> Fault {
    Fault::bad("INVALID_CONTEXT", "invalid_context", details)
}
