//! Answers questions with OpenFeature's OFREP provider: ofrep-rust URL [KEY]

use open_feature::{
    Client, EvaluationContext, EvaluationDetails, EvaluationErrorCode, EvaluationResult, OpenFeature,
};
use open_feature_ofrep::{OfrepOptions, OfrepProvider};
use serde_json::{Value, json};
use std::{env, io};

/// An answer as `table.py` reads it.
fn shown<T: Into<Value>>(result: EvaluationResult<EvaluationDetails<T>>, fallback: Value) -> Value {
    match result {
        Ok(details) => {
            let reason = details.reason.map(|reason| reason.to_string());
            json!({ "value": details.value.into(), "reason": reason, "metadata": {} })
        }
        Err(error) => {
            let code = match error.code {
                EvaluationErrorCode::General(_) => "GENERAL".to_owned(),
                code => code.to_string(),
            };
            json!({ "value": fallback, "error": code })
        }
    }
}

async fn answer(client: &Client, question: &str) -> Value {
    let [kind, flag, fallback, context]: [Value; 4] = serde_json::from_str(question).unwrap();
    let (flag, mut subject) = (flag.as_str().unwrap(), EvaluationContext::default());
    if let Some(key) = context["targetingKey"].as_str() {
        subject = subject.with_targeting_key(key);
    }
    match kind.as_str().unwrap() {
        "boolean" => shown(client.get_bool_details(flag, Some(&subject), None).await, fallback),
        "string" => shown(client.get_string_details(flag, Some(&subject), None).await, fallback),
        kind => panic!("{kind} is not asked"),
    }
}

#[tokio::main]
async fn main() {
    let mut arguments = env::args().skip(1);
    let mut options = OfrepOptions { base_url: arguments.next().unwrap(), ..Default::default() };
    if let Some(key) = arguments.next() {
        options.headers.insert("authorization", format!("Bearer {key}").parse().unwrap());
    }
    let mut api = OpenFeature::singleton_mut().await;
    api.set_provider(OfrepProvider::new(options).await.unwrap()).await;
    let client = api.create_client();
    drop(api);
    for line in io::stdin().lines() {
        println!("{}", answer(&client, &line.unwrap()).await);
    }
}
