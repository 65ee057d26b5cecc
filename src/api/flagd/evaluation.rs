//! `flagd.evaluation.v1` and `v2`, whose messages differ only in what is optional.

use super::{
    Answers, context,
    events::{Event, Events},
    flags,
    metadata::{self, MATCH, OFF, ON},
    pb,
};
use crate::{
    api::{entitlements::response, pb::CheckFeatureResponse},
    check::{Facts, Pieces, Whom},
    domain::{Denial, Question, Verdict},
    replica::Need,
};
use futures_util::StreamExt;
use pb::v1::any_flag::Value;
use prost_types::Struct;
use std::{collections::HashMap, pin::Pin};
use tonic::{Request, Response, Status};

/// By this name it is counted.
const PROTOCOL: &str = "flagd";

/// The answer to what a flag asks.
struct Found {
    key: String,
    /// Whether the flag is the number that comes with a feature, not the feature.
    is_limit: bool,
    /// Whether the feature comes with a number.
    has_number: bool,
    answer: CheckFeatureResponse,
}

impl Answers {
    /// Asks what the flag of this key asks.
    async fn find(&self, key: String, context: Option<Struct>) -> Result<Found, Status> {
        let whom = context::whom(context)?;
        let whole = Question::feature(&key).map_err(|_| unknown(&key))?;
        let facts = self.facts(&whom).await?;
        let moment = self.checks.moment();
        let catalog = moment.catalog();
        let base = key.strip_suffix(flags::LIMIT).and_then(|base| Question::feature(base).ok());
        let (question, is_limit) = match base.filter(|_| !catalog.knows(whole.wanted)) {
            Some(base) => (base, true),
            None => (whole, false),
        };
        let decision = self.checks.decide(&moment, &facts, whom.payers(), &question);
        if let Verdict::Denied { reason: Denial::UnknownFeature, .. } = decision.verdict {
            return Err(unknown(&key));
        }
        let answer = response::feature(decision, &moment, &facts);
        let has_number = answer.limit.is_some() || flags::has_number(catalog, question.wanted);
        Ok(Found { key, is_limit, has_number, answer })
    }

    /// What is known of these.
    pub(super) async fn facts(&self, whom: &Whom) -> Result<Facts, Status> {
        self.checks.facts(whom.payers(), &Need::default()).await.map_err(response::status)
    }

    /// Every flag there is, for `ResolveAll`.
    async fn all(&self, context: Option<Struct>) -> Result<pb::v1::ResolveAllResponse, Status> {
        let whom = context::whom(context)?;
        let facts = self.facts(&whom).await?;
        let (moment, mut flags) = (self.checks.moment(), HashMap::new());
        let (prepared, mut pieces) = (moment.prepare(&facts), Pieces::default());
        for feature in moment.features(&facts) {
            let question = Question::of(feature);
            let payers = whom.payers();
            let decision = self.checks.decide_next(&prepared, &mut pieces, payers, &question).await;
            let answer = response::feature(decision, &moment, &facts);
            let has_number =
                answer.limit.is_some() || flags::has_number(moment.catalog(), question.wanted);
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

    /// The plan that grants it; none where an override does, or nothing.
    fn string(&self) -> Result<String, Status> {
        self.is_feature()?;
        Ok(if self.answer.allowed { self.answer.plan.clone() } else { String::new() })
    }

    fn object(&self) -> Result<Struct, Status> {
        self.is_feature().map(|()| metadata::to_struct(metadata::decision(&self.answer)))
    }

    fn int(&self) -> Result<i64, Status> {
        self.number().map(|number| number.try_into().expect("it has 53 bits"))
    }

    #[expect(clippy::cast_precision_loss, reason = "it has 53 bits")]
    fn float(&self) -> Result<f64, Status> {
        self.number().map(|number| number as f64)
    }

    fn number(&self) -> Result<u64, Status> {
        if !self.has_number {
            return Err(Status::invalid_argument(format!(
                "`{}` comes with no number: resolve it as a boolean",
                self.key
            )));
        }
        Ok(metadata::number(self.answer.allowed, self.answer.limit))
    }

    fn is_feature(&self) -> Result<(), Status> {
        if !self.is_limit {
            return Ok(());
        }
        Err(Status::invalid_argument(format!("`{}` is a number: resolve it as one", self.key)))
    }

    fn any(&self, value: Value) -> pb::v1::AnyFlag {
        let (reason, variant) = (MATCH.into(), self.variant());
        pb::v1::AnyFlag { reason, variant, metadata: Some(self.metadata()), value: Some(value) }
    }
}

/// The service of one version; its calls differ in the type of the value alone.
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
                    let Event { word, data } = event?;
                    Ok(pb::$version::EventStreamResponse { r#type: word.into(), data })
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
