//! Whom a question is about: from OpenFeature's evaluation context, or from flagd's selector.

use crate::{
    api::entitlements::request::Faults,
    check::Whom,
    domain::{Kind, Subject},
};
use prost_types::{Struct, value::Kind as Value};
use tonic::{Status, metadata::MetadataMap};

/// What in a context names somebody; the first must be there.
pub(super) const NAMES: [(&str, Option<Kind>); 5] = [
    ("targetingKey", None),
    ("userId", Some(Kind::User)),
    ("user_id", Some(Kind::User)),
    ("orgId", Some(Kind::Organization)),
    ("organization_id", Some(Kind::Organization)),
];

/// What in a selector names somebody.
const SELECTS: [(&str, Option<Kind>); 5] = [
    ("flagSetId", None),
    ("userId", Some(Kind::User)),
    ("user_id", Some(Kind::User)),
    ("orgId", Some(Kind::Organization)),
    ("organization_id", Some(Kind::Organization)),
];

const NO_ID: &str = "must be a Clerk id, `user_…` or `org_…`";
const NO_KEY: &str =
    "is missing: set the targeting key to the Clerk id of whom is asked about, `user_…` or `org_…`";
const NO_SELECTOR: &str = "is missing: say whose entitlements to send in the `flagd-selector` header, such as \
     `flagSetId=org_…`, `userId=user_…` or `userId=user_…,orgId=org_…`";
const UNKNOWN: &str = "cannot be selected by: give `flagSetId=org_…` (or `user_…`), `userId=user_…`, `orgId=org_…`, \
     or the last two with a comma between";

/// Who is asked about.
pub(super) fn whom(context: Option<Struct>) -> Result<Whom, Status> {
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
    faults.none(named.whom())
}

/// Who is selected: by the header, or else by the field that it has replaced.
pub(super) fn selected(headers: &MetadataMap, field: &str) -> Result<Whom, Status> {
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
        match SELECTS.iter().find(|(known, _)| *known == name) {
            Some((_, kind)) => named.add("flagd-selector", *kind, id, &mut faults),
            None => faults.add("flagd-selector", format!("`{part}` {UNKNOWN}")),
        }
    }
    faults.none(named.whom())
}

/// Who was named so far.
#[derive(Default)]
struct Named {
    user: Option<Subject>,
    organization: Option<Subject>,
}

impl Named {
    /// Adds who has this id, unless another one of the kind is there.
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

    fn whom(self) -> Option<Whom> {
        Whom::of(self.user, self.organization)
    }
}
