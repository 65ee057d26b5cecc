//! `flagd.evaluation.v1` and `v2`, whose messages differ only in which fields are optional.

use super::{
    Answers, context,
    events::{Event, Events},
    flags, pb,
};
use crate::{
    api::{
        entitlements::response,
        openfeature::{REASON, variant},
        proto_struct,
    },
    check::{CooperativeYield, EvaluatedAccounts, SubjectsBuf},
    domain::{Catalog, Explanation, Question},
    replica::Consistency,
};
use futures_util::StreamExt;
use pb::v1::any_flag::Value;
use prost_types::Struct;
use std::{collections::HashMap, pin::Pin};
use tonic::{Request, Response, Status};

/// The label `protocol` of the metrics.
const PROTOCOL: &str = "flagd";

/// The evaluation of one flag.
struct Found {
    key: String,
    /// Whether the flag is the limit of a feature (`<slug>.limit`), not the feature itself.
    is_limit: bool,
    /// Whether the feature has a numeric limit.
    has_number: bool,
    allowed: bool,
    limit: Option<u64>,
    /// The plan that grants the feature; empty if an override grants it or it is denied.
    plan: String,
    /// The explanation of the answer.
    metadata: Struct,
}

impl Answers {
    /// Evaluates the flag with this key.
    async fn find(&self, key: String, context: Option<Struct>) -> Result<Found, Status> {
        let subjects = context::subjects(context)?;
        let whole = Question::feature(&key).map_err(|_| unknown(&key))?;
        let evaluated = self.evaluated_accounts(&subjects).await?;
        let evaluation = self.checks.context();
        let catalog = evaluation.catalog();
        let base = key.strip_suffix(flags::LIMIT).and_then(|base| Question::feature(base).ok());
        let (question, is_limit) = match base.filter(|_| !catalog.knows(whole.wanted)) {
            Some(base) => (base, true),
            None => (whole, false),
        };
        let answer = self.checks.answer(&evaluation, &evaluated, subjects.as_subjects(), &question);
        if answer.is_unknown_target() {
            return Err(unknown(&key));
        }
        Ok(Found { is_limit, ..Found::new(&key, &answer, catalog, &question) })
    }

    /// Loads the accounts of these subjects.
    pub(super) async fn evaluated_accounts(
        &self,
        subjects: &SubjectsBuf,
    ) -> Result<EvaluatedAccounts, Status> {
        self.checks
            .evaluated_accounts(subjects.as_subjects(), &Consistency::default())
            .await
            .map_err(response::status)
    }

    /// Evaluates all flags, for `ResolveAll`.
    async fn all(&self, context: Option<Struct>) -> Result<pb::v1::ResolveAllResponse, Status> {
        let subjects = context::subjects(context)?;
        let evaluated = self.evaluated_accounts(&subjects).await?;
        let (evaluation, mut flags) = (self.checks.context(), HashMap::new());
        let (prepared, mut yielding) =
            (evaluation.prepare(&evaluated), CooperativeYield::default());
        for feature in evaluation.features(&evaluated) {
            let question = Question::of(feature);
            let subjects = subjects.as_subjects();
            let answer =
                self.checks.answer_next(&prepared, &mut yielding, subjects, &question).await;
            let found = Found::new(feature.as_str(), &answer, evaluation.catalog(), &question);
            if found.has_number {
                let number = Value::DoubleValue(found.float()?);
                flags.insert(format!("{feature}{}", flags::LIMIT), found.any(number));
            }
            flags.insert(feature.to_string(), found.any(Value::BoolValue(found.allowed)));
        }
        Ok(pb::v1::ResolveAllResponse { flags, metadata: Some(Struct::default()) })
    }
}

fn unknown(key: &str) -> Status {
    Status::not_found(format!("no plan of the catalog has a feature `{key}`"))
}

impl Found {
    fn new(
        key: &str,
        answer: &Explanation<'_>,
        catalog: &Catalog,
        question: &Question<'_>,
    ) -> Self {
        let (allowed, limit) = (answer.allowed, answer.limit);
        let has_number = limit.is_some() || flags::has_number(catalog, question.wanted);
        let plan = answer.plan.filter(|_| allowed).unwrap_or_default().to_owned();
        let metadata = proto_struct::of(answer);
        Self { key: key.into(), is_limit: false, has_number, allowed, limit, plan, metadata }
    }

    fn boolean(&self) -> Result<bool, Status> {
        self.is_feature().map(|()| self.allowed)
    }

    fn string(&self) -> Result<String, Status> {
        self.is_feature().map(|()| self.plan.clone())
    }

    fn object(&self) -> Result<Struct, Status> {
        self.is_feature().map(|()| self.metadata.clone())
    }

    fn int(&self) -> Result<i64, Status> {
        self.number().map(|number| number.try_into().expect("a limit has at most 53 bits"))
    }

    #[expect(clippy::cast_precision_loss, reason = "a limit has at most 53 bits")]
    fn float(&self) -> Result<f64, Status> {
        self.number().map(|number| number as f64)
    }

    fn number(&self) -> Result<u64, Status> {
        if !self.has_number {
            return Err(Status::invalid_argument(format!(
                "`{}` has no number: resolve it as a boolean",
                self.key
            )));
        }
        Ok(flags::number(self.allowed, self.limit))
    }

    fn is_feature(&self) -> Result<(), Status> {
        if !self.is_limit {
            return Ok(());
        }
        Err(Status::invalid_argument(format!(
            "`{}` is a number: resolve it as an integer or float",
            self.key
        )))
    }

    fn any(&self, value: Value) -> pb::v1::AnyFlag {
        let (reason, variant) = (REASON.into(), variant(self.allowed).into());
        let metadata = Some(self.metadata.clone());
        pb::v1::AnyFlag { reason, variant, metadata, value: Some(value) }
    }
}

/// Implements the service of one version, whose calls differ only in the type of the value.
macro_rules! serve {
    (
        $version:ident
        { $($call:ident $request:ident $response:ident $value:ident;)* }
        $($more:tt)*
    ) => {
        #[tonic::async_trait]
        impl pb::$version::service_server::Service for Answers {
            $(async fn $call(
                &self,
                request: Request<pb::$version::$request>,
            ) -> Result<Response<pb::$version::$response>, Status> {
                let pb::$version::$request { flag_key, context } = request.into_inner();
                let found = self.find(flag_key, context).await;
                let found = found.and_then(|found| Ok((found.$value()?, found)));
                let is_allowed = found.as_ref().is_ok_and(|(_, found)| found.allowed);
                let result = if is_allowed { "allowed" } else { "denied" };
                let (value, found) = self.counted(PROTOCOL, result, found)?;
                Ok(Response::new(pb::$version::$response {
                    value: value.into(),
                    reason: REASON.into(),
                    variant: variant(found.allowed).to_owned().into(),
                    metadata: Some(found.metadata),
                }))
            })*

            type EventStreamStream = Pin<
                Box<
                    dyn futures_util::Stream<
                            Item = Result<pb::$version::EventStreamResponse, Status>,
                        > + Send,
                >,
            >;

            async fn event_stream(
                &self,
                _: Request<pb::$version::EventStreamRequest>,
            ) -> Result<Response<Self::EventStreamStream>, Status> {
                let events = self.counted(PROTOCOL, "stream", Events::of(self))?.map(|event| {
                    let Event { kind, data } = event?;
                    Ok(pb::$version::EventStreamResponse { r#type: kind.into(), data })
                });
                Ok(Response::new(Box::pin(events)))
            }

            $($more)*
        }
    };
}

serve! {
    v2 {
        resolve_boolean ResolveBooleanRequest ResolveBooleanResponse boolean;
        resolve_string ResolveStringRequest ResolveStringResponse string;
        resolve_int ResolveIntRequest ResolveIntResponse int;
        resolve_float ResolveFloatRequest ResolveFloatResponse float;
        resolve_object ResolveObjectRequest ResolveObjectResponse object;
    }
}

serve! {
    v1 {
        resolve_boolean ResolveBooleanRequest ResolveBooleanResponse boolean;
        resolve_string ResolveStringRequest ResolveStringResponse string;
        resolve_int ResolveIntRequest ResolveIntResponse int;
        resolve_float ResolveFloatRequest ResolveFloatResponse float;
        resolve_object ResolveObjectRequest ResolveObjectResponse object;
    }

    async fn resolve_all(
        &self,
        request: Request<pb::v1::ResolveAllRequest>,
    ) -> Result<Response<pb::v1::ResolveAllResponse>, Status> {
        let all = self.all(request.into_inner().context).await;
        self.counted(PROTOCOL, "evaluated", all).map(Response::new)
    }
}
