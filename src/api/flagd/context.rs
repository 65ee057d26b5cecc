//! Parses the subjects of a question from OpenFeature's evaluation context or flagd's selector.

use crate::{
    api::entitlements::request::Faults,
    check::SubjectsBuf,
    domain::{Kind, Subject},
};
use prost_types::{Struct, value::Kind as Value};
use tonic::{Status, metadata::MetadataMap};

/// The fields of a context that name a subject; the first is required.
pub(super) const NAMES: [(&str, Option<Kind>); 5] = [
    ("targetingKey", None),
    ("userId", Some(Kind::User)),
    ("user_id", Some(Kind::User)),
    ("orgId", Some(Kind::Organization)),
    ("organization_id", Some(Kind::Organization)),
];

/// The keys of a selector that name a subject.
const SELECTOR_KEYS: [(&str, Option<Kind>); 5] = [
    ("flagSetId", None),
    ("userId", Some(Kind::User)),
    ("user_id", Some(Kind::User)),
    ("orgId", Some(Kind::Organization)),
    ("organization_id", Some(Kind::Organization)),
];

const NO_ID: &str = "must be a Clerk id, `user_…` or `org_…`";
const NO_KEY: &str =
    "is missing: set it to the Clerk id of the user or organization, `user_…` or `org_…`";
const NO_SELECTOR: &str = "is missing: select a user or organization in the `flagd-selector` header, such as \
     `flagSetId=org_…`, `userId=user_…` or `userId=user_…,orgId=org_…`";
const UNKNOWN: &str = "is not a valid selector: use `flagSetId=org_…` (or `user_…`), `userId=user_…`, `orgId=org_…`, \
     or the last two separated by a comma";

/// The subjects that a context names.
pub(super) fn subjects(context: Option<Struct>) -> Result<SubjectsBuf, Status> {
    let fields = context.unwrap_or_default().fields;
    let (mut named, mut faults) = (Named::default(), Faults::default());
    for (name, kind) in NAMES {
        let field = format!("context.{name}");
        match fields.get(name).and_then(|value| value.kind.as_ref()) {
            Some(Value::StringValue(id)) if !id.is_empty() => {
                named.add(&field, kind, id, &mut faults);
            }
            None | Some(Value::NullValue(_) | Value::StringValue(_)) if kind.is_none() => {
                faults.add(&field, NO_KEY);
            }
            None | Some(Value::NullValue(_) | Value::StringValue(_)) => {}
            Some(_) => faults.add(&field, "must be a string"),
        }
    }
    faults.none(named.subjects())
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
    let mut named = Named::default();
    for part in selector.split(',') {
        let (name, id) = part.split_once('=').unwrap_or(("", part));
        match SELECTOR_KEYS.iter().find(|(known, _)| *known == name) {
            Some((_, kind)) => named.add("flagd-selector", *kind, id, &mut faults),
            None => faults.add("flagd-selector", format!("`{part}` {UNKNOWN}")),
        }
    }
    faults.none(named.subjects())
}

/// The subjects that were parsed so far.
#[derive(Default)]
struct Named {
    user: Option<Subject>,
    organization: Option<Subject>,
}

impl Named {
    /// Adds the subject with this id; a second, different subject of one kind is a fault.
    fn add(&mut self, field: &str, kind: Option<Kind>, id: &str, faults: &mut Faults) {
        let subject = match kind {
            Some(kind) => Subject::of(kind, id).map_err(|invalid| invalid.to_string()),
            None => id.parse().map_err(|_| NO_ID.into()),
        };
        let subject: Subject = match subject {
            Ok(subject) => subject,
            Err(invalid) => return faults.add(field, invalid),
        };
        let kind = subject.kind();
        let place = match kind {
            Kind::User => &mut self.user,
            Kind::Organization => &mut self.organization,
        };
        if place.get_or_insert_with(|| subject.clone()) != &subject {
            faults.add(field, format!("names a second {kind}"));
        }
    }

    fn subjects(self) -> Option<SubjectsBuf> {
        SubjectsBuf::of(self.user, self.organization)
    }
}
