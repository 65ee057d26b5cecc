//! `flagd.evaluation.v1` and `v2`, whose messages differ only in which fields are optional.

use super::{
    Answers, context,
    events::{Event, Events},
    flags,
    metadata::{self, MATCH, OFF, ON},
    pb,
};
use crate::{
    api::{entitlements::response, pb::CheckFeatureResponse},
    check::{CooperativeYield, EvaluatedAccounts, SubjectsBuf},
    domain::{Denial, Question, Verdict},
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
    answer: CheckFeatureResponse,
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
        let decision =
            self.checks.decide(&evaluation, &evaluated, subjects.as_subjects(), &question);
        if let Verdict::Denied { reason: Denial::UnknownFeature, .. } = decision.verdict {
            return Err(unknown(&key));
        }
        let answer = response::feature(decision, &evaluation, &evaluated);
        let has_number = answer.limit.is_some() || flags::has_number(catalog, question.wanted);
        Ok(Found { key, is_limit, has_number, answer })
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
        let (prepared, mut pieces) = (evaluation.prepare(&evaluated), CooperativeYield::default());
        for feature in evaluation.features(&evaluated) {
            let question = Question::of(feature);
            let subjects = subjects.as_subjects();
            let decision =
                self.checks.decide_next(&prepared, &mut pieces, subjects, &question).await;
            let answer = response::feature(decision, &evaluation, &evaluated);
            let has_number =
                answer.limit.is_some() || flags::has_number(evaluation.catalog(), question.wanted);
            let found = Found { key: feature.to_string(), is_limit: false, has_number, answer };
            if has_number {
                let number = Value::DoubleValue(found.float()?);
                flags.insert(format!("{feature}{}", flags::LIMIT), found.any(number));
            }
            flags.insert(feature.to_string(), found.any(Value::BoolValue(found.answer.allowed)));
        }
        Ok(pb::v1::ResolveAllResponse { flags, metadata: Some(Struct::default()) })
    }
}

fn unknown(key: &str) -> Status {
    Status::not_found(format!("no plan of the catalog has a feature `{key}`"))
}

impl Found {
    fn variant(&self) -> String {
        if self.answer.allowed { ON.into() } else { OFF.into() }
    }

    fn metadata(&self) -> Struct {
        metadata::to_struct(metadata::metadata(&self.answer))
    }

    fn boolean(&self) -> Result<bool, Status> {
        self.is_feature().map(|()| self.answer.allowed)
    }

    /// The plan that grants the feature; empty if an override grants it or it is denied.
    fn string(&self) -> Result<String, Status> {
        self.is_feature()?;
        Ok(if self.answer.allowed { self.answer.plan.clone() } else { String::new() })
    }

    fn object(&self) -> Result<Struct, Status> {
        self.is_feature().map(|()| metadata::to_struct(metadata::decision(&self.answer)))
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
        Ok(metadata::number(self.answer.allowed, self.answer.limit))
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
        let (reason, variant) = (MATCH.into(), self.variant());
        pb::v1::AnyFlag { reason, variant, metadata: Some(self.metadata()), value: Some(value) }
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
                let is_allowed = found.as_ref().is_ok_and(|(_, found)| found.answer.allowed);
                let result = if is_allowed { "allowed" } else { "denied" };
                let (value, found) = self.counted(PROTOCOL, result, found)?;
                Ok(Response::new(pb::$version::$response {
                    value: value.into(),
                    reason: MATCH.into(),
                    variant: found.variant().into(),
                    metadata: Some(found.metadata()),
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
