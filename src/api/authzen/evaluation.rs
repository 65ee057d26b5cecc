//! A request's body into questions. What is wrong with it is told by the name of the field.

use crate::{
    check::Payers,
    domain::{Id, Kind, Question},
};
use serde_json::{Map, Value};

/// The most evaluations of one request, as of a `CheckFeatures`.
const MOST: usize = 100;

/// A request's body.
pub(super) struct Document {
    /// What is asked, or what holds for every evaluation that does not say it itself.
    defaults: Map<String, Value>,
    pub(super) evaluations: Vec<Value>,
    pub(super) semantic: Semantic,
}

/// One question, and about whom.
pub(super) struct Asked<'d> {
    pub(super) payers: Payers<'d>,
    pub(super) question: Question<'d>,
}

/// When evaluating ends.
#[derive(Clone, Copy)]
pub(super) enum Semantic {
    ExecuteAll,
    DenyOnFirstDeny,
    PermitOnFirstPermit,
}

impl Semantic {
    pub(super) fn ends_after(self, permitted: bool) -> bool {
        match self {
            Self::ExecuteAll => false,
            Self::DenyOnFirstDeny => !permitted,
            Self::PermitOnFirstPermit => permitted,
        }
    }

    fn parse(options: Option<&Value>) -> Result<Self, String> {
        let semantic = match options {
            None | Some(Value::Null) => None,
            Some(Value::Object(options)) => options.get("evaluations_semantic"),
            Some(_) => return Err("options must be an object".into()),
        };
        match semantic.map(Value::as_str) {
            None | Some(Some("execute_all")) => Ok(Self::ExecuteAll),
            Some(Some("deny_on_first_deny")) => Ok(Self::DenyOnFirstDeny),
            Some(Some("permit_on_first_permit")) => Ok(Self::PermitOnFirstPermit),
            Some(_) => {
                Err("options.evaluations_semantic must be execute_all, deny_on_first_deny or \
                            permit_on_first_permit"
                    .into())
            }
        }
    }
}

impl Document {
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        let parsed = serde_json::from_slice(body);
        let parsed = parsed.map_err(|error| format!("the body is no JSON: {error}"))?;
        let Value::Object(mut defaults) = parsed else {
            return Err("the body must be a JSON object".into());
        };
        let semantic = Semantic::parse(defaults.get("options"))?;
        let evaluations = match defaults.remove("evaluations") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(evaluations)) if evaluations.len() <= MOST => evaluations,
            Some(Value::Array(_)) => return Err(format!("evaluations must be at most {MOST}")),
            Some(_) => return Err("evaluations must be an array".into()),
        };
        Ok(Self { defaults, evaluations, semantic })
    }

    /// The question of a document that asks one.
    pub(super) fn alone(&self) -> Result<Asked<'_>, String> {
        asked(None, &self.defaults)
    }

    /// The questions of a document that asks many.
    pub(super) fn each(&self) -> impl Iterator<Item = Result<Asked<'_>, String>> {
        self.evaluations.iter().map(|evaluation| match evaluation {
            Value::Object(evaluation) => asked(Some(evaluation), &self.defaults),
            _ => Err("an evaluation must be an object".into()),
        })
    }
}

fn asked<'d>(
    own: Option<&'d Map<String, Value>>,
    defaults: &'d Map<String, Value>,
) -> Result<Asked<'d>, String> {
    let part = |name| match own.and_then(|own| own.get(name)).or_else(|| defaults.get(name)) {
        Some(Value::Object(part)) => Ok(Some(part)),
        None | Some(Value::Null) => Ok(None),
        Some(_) => Err(format!("{name} must be an object")),
    };
    let needed = |name| part(name)?.ok_or_else(|| format!("{name} is missing"));
    let (subject, action) = (needed("subject")?, needed("action")?);
    let resource = needed("resource")?;
    part("context")?;
    Ok(Asked { payers: payers(subject)?, question: question(action, resource)? })
}

fn payers(subject: &Map<String, Value>) -> Result<Payers<'_>, String> {
    let kind = match text(subject, "subject", "type")? {
        "user" => Kind::User,
        "organization" | "org" => Kind::Organization,
        _ => return Err("subject.type must be user or organization".into()),
    };
    let invalid = |field, error| format!("subject.{field} {error}");
    let id = text(subject, "subject", "id")?;
    let id = Id::of(kind, id).map_err(|error| invalid("id", error))?;
    let active = match subject.get("properties") {
        None | Some(Value::Null) => None,
        Some(Value::Object(properties)) => properties.get("organization_id"),
        Some(_) => return Err("subject.properties must be an object".into()),
    };
    match active {
        None | Some(Value::Null) => Ok(Payers::of_one(id)),
        Some(Value::String(active)) if kind == Kind::User => {
            let active = Id::of(Kind::Organization, active);
            let active = active.map_err(|error| invalid("properties.organization_id", error))?;
            Ok(Payers::of_user(id, Some(active)))
        }
        Some(_) => Err("subject.properties.organization_id must be the id of a user's active \
                        organization"
            .into()),
    }
}

fn question<'d>(
    action: &'d Map<String, Value>,
    resource: &'d Map<String, Value>,
) -> Result<Question<'d>, String> {
    let name = text(action, "action", "name")?;
    let (kind, id) = (text(resource, "resource", "type")?, text(resource, "resource", "id")?);
    let (field, question) = match kind {
        "feature" => ("resource.id", Question::feature(id)),
        "plan" => ("resource.id", Question::plan(id)),
        _ => ("action.name", Question::feature(name)),
    };
    question.map_err(|error| format!("{field} {error}"))
}

/// A field that must be there and say something.
fn text<'p>(part: &'p Map<String, Value>, of: &str, field: &str) -> Result<&'p str, String> {
    match part.get(field) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        None | Some(Value::Null) => Err(format!("{of}.{field} is missing")),
        Some(_) => Err(format!("{of}.{field} must be a string that is not empty")),
    }
}
