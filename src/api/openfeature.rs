//! The parts that OFREP and flagd share: the evaluation context, variants, and the reason of a flag.
//!
//! `targetingKey` is the id of a Clerk user or organization. The other attributes add the other one, for the union of a
//! user and the active organization. All other attributes of a context are ignored.

use crate::{
    check::{Subjects, SubjectsParser},
    domain::Kind,
};
use serde_json::{Map, Value};

/// The attributes of a context that name a subject, each with the kind that it takes; the first is required.
pub(super) const ATTRIBUTES: [(&str, Option<Kind>); 5] = [
    ("targetingKey", None),
    ("userId", Some(Kind::User)),
    ("user_id", Some(Kind::User)),
    ("orgId", Some(Kind::Organization)),
    ("organization_id", Some(Kind::Organization)),
];

/// The only reason that is sent: with another one, providers could return another subject's cached answer. The metadata
/// has the reason of the decision.
pub(super) const REASON: &str = "TARGETING_MATCH";
/// The variant of an allowed feature.
pub(super) const ON: &str = "on";
/// The variant of a denied feature.
pub(super) const OFF: &str = "off";

/// An attribute of a context that is missing or invalid.
pub(super) struct ContextFault {
    pub(super) attribute: &'static str,
    /// The fault, to be read after the name of the attribute.
    pub(super) reason: String,
    /// Whether the targeting key is missing.
    pub(super) is_key_missing: bool,
}

/// The variant of a feature.
pub(super) fn variant(allowed: bool) -> &'static str {
    if allowed { ON } else { OFF }
}

/// The subjects that a context names, or its faults, of which there is at least one. Null and empty texts count as
/// absent.
pub(super) fn subjects(context: &Map<String, Value>) -> Result<Subjects<'_>, Vec<ContextFault>> {
    let (mut parser, mut faults) = (SubjectsParser::default(), Vec::new());
    for (attribute, kind) in ATTRIBUTES {
        let (reason, is_key_missing) = match context.get(attribute) {
            Some(Value::String(id)) if !id.is_empty() => match parser.add(kind, id) {
                Ok(()) => continue,
                Err(error) => (error.to_string(), false),
            },
            None | Some(Value::Null | Value::String(_)) if kind.is_none() => {
                let fix = "set it to the Clerk id of the user or organization, `user_…` or `org_…`";
                (format!("is missing: {fix}"), true)
            }
            None | Some(Value::Null | Value::String(_)) => continue,
            Some(_) => ("must be a string".into(), false),
        };
        faults.push(ContextFault { attribute, reason, is_key_missing });
    }
    parser.subjects().filter(|_| faults.is_empty()).ok_or(faults)
}
