//! Parses the subjects of a question from OpenFeature's evaluation context or flagd's selector.

use crate::{
    api::{faults::Faults, openfeature, proto_struct},
    check::{SubjectsBuf, SubjectsParser},
    domain::Kind,
};
use prost_types::Struct;
use tonic::{Status, metadata::MetadataMap};

/// The keys of a selector that name a subject.
const SELECTOR_KEYS: [(&str, Option<Kind>); 5] = [
    ("flagSetId", None),
    ("userId", Some(Kind::User)),
    ("user_id", Some(Kind::User)),
    ("orgId", Some(Kind::Organization)),
    ("organization_id", Some(Kind::Organization)),
];

const NO_SELECTOR: &str = "is missing: select a user or organization in the `flagd-selector` header, such as \
     `flagSetId=org_…`, `userId=user_…` or `userId=user_…,orgId=org_…`";
const UNKNOWN: &str = "is not a valid selector: use `flagSetId=org_…` (or `user_…`), `userId=user_…`, `orgId=org_…`, \
     or the last two separated by a comma";

/// The subjects that a context names.
pub(super) fn subjects(context: Option<Struct>) -> Result<SubjectsBuf, Status> {
    let context = proto_struct::to_json(&context.unwrap_or_default());
    openfeature::subjects(&context).map(Into::into).map_err(|found| {
        let mut faults = Faults::default();
        for fault in found {
            faults.add(&format!("context.{}", fault.attribute), fault.reason);
        }
        faults.into()
    })
}

/// The subjects that a selector names: the header, else the deprecated field of the request.
pub(super) fn selected(headers: &MetadataMap, field: &str) -> Result<SubjectsBuf, Status> {
    let mut faults = Faults::default();
    let selector = match headers.get("flagd-selector").map(|value| value.to_str()) {
        Some(Ok(selector)) => selector,
        Some(Err(_)) => {
            faults.add("flagd-selector", "must be ASCII");
            return faults.none(None);
        }
        None => field,
    };
    if selector.is_empty() {
        faults.add("flagd-selector", NO_SELECTOR);
        return faults.none(None);
    }
    let mut parser = SubjectsParser::default();
    for part in selector.split(',') {
        let (name, id) = part.split_once('=').unwrap_or(("", part));
        let added = match SELECTOR_KEYS.iter().find(|(key, _)| *key == name) {
            Some((_, kind)) => parser.add(*kind, id).map_err(|error| error.to_string()),
            None => Err(format!("`{part}` {UNKNOWN}")),
        };
        added.unwrap_or_else(|fault| faults.add("flagd-selector", fault));
    }
    faults.none(parser.subjects()).map(Into::into)
}
