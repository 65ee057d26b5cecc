//! Parses the body of a request into queries. An error names the invalid field.

use crate::{
    check::{Subjects, SubjectsParser},
    domain::{Kind, Question},
};
use serde_json::{Map, Value};

/// The maximum number of evaluations in one request, as in `CheckFeatures`.
const MAX_EVALUATIONS: usize = 100;

/// The body of a request.
pub(super) struct Document {
    /// The fields of the body: the query itself, or the defaults of the evaluations in a batch.
    defaults: Map<String, Value>,
    pub(super) evaluations: Vec<Value>,
    pub(super) semantic: Semantic,
}

/// One question, and its subjects.
pub(super) struct Query<'d> {
    pub(super) subjects: Subjects<'d>,
    pub(super) question: Question<'d>,
}

/// When a batch ends early.
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
        let parsed = parsed.map_err(|error| format!("the body is not valid JSON: {error}"))?;
        let Value::Object(mut defaults) = parsed else {
            return Err("the body must be a JSON object".into());
        };
        let semantic = Semantic::parse(defaults.get("options"))?;
        let evaluations = match defaults.remove("evaluations") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(evaluations)) if evaluations.len() <= MAX_EVALUATIONS => evaluations,
            Some(Value::Array(_)) => {
                return Err(format!("evaluations must have at most {MAX_EVALUATIONS} elements"));
            }
            Some(_) => return Err("evaluations must be an array".into()),
        };
        Ok(Self { defaults, evaluations, semantic })
    }

    /// The query of a body without a batch.
    pub(super) fn single(&self) -> Result<Query<'_>, String> {
        query(None, &self.defaults)
    }

    /// The queries of a batch.
    pub(super) fn each(&self) -> impl Iterator<Item = Result<Query<'_>, String>> {
        self.evaluations.iter().map(|evaluation| match evaluation {
            Value::Object(evaluation) => query(Some(evaluation), &self.defaults),
            _ => Err("an evaluation must be an object".into()),
        })
    }
}

fn query<'d>(
    own: Option<&'d Map<String, Value>>,
    defaults: &'d Map<String, Value>,
) -> Result<Query<'d>, String> {
    let part = |name| match own.and_then(|own| own.get(name)).or_else(|| defaults.get(name)) {
        Some(Value::Object(part)) => Ok(Some(part)),
        None | Some(Value::Null) => Ok(None),
        Some(_) => Err(format!("{name} must be an object")),
    };
    let required = |name| part(name)?.ok_or_else(|| format!("{name} is missing"));
    let (subject, action) = (required("subject")?, required("action")?);
    let resource = required("resource")?;
    part("context")?;
    Ok(Query { subjects: subjects(subject)?, question: question(action, resource)? })
}

fn subjects(subject: &Map<String, Value>) -> Result<Subjects<'_>, String> {
    let kind = match text(subject, "subject", "type")? {
        "user" => Kind::User,
        "organization" | "org" => Kind::Organization,
        _ => return Err("subject.type must be user or organization".into()),
    };
    let mut parser = SubjectsParser::default();
    let mut add = |kind, field, id| {
        parser.add(Some(kind), id).map_err(|error| format!("subject.{field} {error}"))
    };
    add(kind, "id", text(subject, "subject", "id")?)?;
    let active = match subject.get("properties") {
        None | Some(Value::Null) => None,
        Some(Value::Object(properties)) => properties.get("organization_id"),
        Some(_) => return Err("subject.properties must be an object".into()),
    };
    match active {
        None | Some(Value::Null) => {}
        Some(Value::String(absent)) if absent.is_empty() => {}
        Some(Value::String(active)) if kind == Kind::User => {
            add(Kind::Organization, "properties.organization_id", active)?;
        }
        Some(_) => {
            return Err("subject.properties.organization_id must be the id of a user's active \
                        organization"
                .into());
        }
    }
    Ok(parser.subjects().expect("the id was added"))
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

/// A required string that is not empty.
fn text<'p>(part: &'p Map<String, Value>, of: &str, field: &str) -> Result<&'p str, String> {
    match part.get(field) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        None | Some(Value::Null) => Err(format!("{of}.{field} is missing")),
        Some(_) => Err(format!("{of}.{field} must be a non-empty string")),
    }
}
