//! A fake of Clerk's Backend API. It answers as the published description says, and fails on demand.

use bytes::Bytes;
use entitlements::{clerk::BackendApi, config::BackendAccess};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::net::TcpListener;

pub const KEY: &str = "sk_live_fake";

/// The instance of the sample payloads.
pub const INSTANCE: &str = "ins_3a2yozEruCDypYrqxx38FMn3hC6";

/// The data of the fake, and its next faults.
#[derive(Default)]
pub struct State {
    pub plans: Vec<Value>,
    pub items: Vec<Value>,
    /// Subscriptions by subject.
    pub subscriptions: HashMap<String, Value>,
    pub faults: VecDeque<Fault>,
    /// Fixed responses (status and body) for single subjects or for `plans`, which replace the data.
    pub answers: HashMap<String, (u16, String)>,
    /// The number of requests about each subject.
    pub request_counts: HashMap<String, usize>,
    pub requests: usize,
    /// The instance of the key.
    pub instance: String,
    /// The newest `traceparent` header of each path.
    pub traced: HashMap<String, String>,
    /// The requests of the last 10 s.
    window: VecDeque<Instant>,
}

/// Clerk's rate limit for a production instance, in requests per 10 s.
const LIMIT: usize = 1000;

/// The fault of the next request.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    TooMany,
    Broken,
    Truncated,
    /// A row is created before the response, so that later rows move to the next page.
    Moved,
}

/// A running fake server.
pub struct Clerk {
    pub url: String,
    pub state: Arc<Mutex<State>>,
}

impl Clerk {
    /// Starts a fake with the sample plans and without subscriptions.
    pub async fn start() -> Self {
        let plans: Value =
            serde_json::from_str(include_str!("../../payloads/bapi/plans.json")).unwrap();
        let plans = plans["data"].as_array().unwrap().clone();
        let state =
            Arc::new(Mutex::new(State { plans, instance: INSTANCE.into(), ..State::default() }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((peer, _)) = listener.accept().await {
                let state = shared.clone();
                let answer = service_fn(move |request| {
                    let answer = answer(&mut state.lock().unwrap(), &request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(peer), answer));
            }
        });
        Self { url, state }
    }

    pub fn access(&self, key: &str) -> BackendAccess {
        BackendAccess { url: self.url.clone(), key: key.to_owned().into() }
    }

    /// A client with this secret key.
    pub fn api(&self, key: &str) -> BackendApi {
        BackendApi::new(&self.url, &key.to_owned().into()).unwrap()
    }

    /// Sets a fixed response for a subject or for `plans`.
    pub fn answers(&self, about: &str, status: u16, body: impl Into<String>) {
        self.state.lock().unwrap().answers.insert(about.to_owned(), (status, body.into()));
    }

    /// Stores a subscription of a subject, built from a webhook body.
    pub fn has(&self, subject: &str, event: &str) {
        self.state.lock().unwrap().subscriptions.insert(subject.into(), subscription(event));
    }

    /// The number of requests about a subject, or about `plans`.
    pub fn requests_about(&self, about: &str) -> usize {
        self.state.lock().unwrap().request_counts.get(about).copied().unwrap_or(0)
    }

    pub fn fail(&self, faults: &[Fault]) {
        self.state.lock().unwrap().faults.extend(faults);
    }
}

fn answer(state: &mut State, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    state.requests += 1;
    let now = Instant::now();
    state.window.retain(|at| now - *at < Duration::from_secs(10));
    if state.window.len() >= LIMIT {
        return too_many("10");
    }
    state.window.push_back(now);
    let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok());
    if header("authorization") != Some(&format!("Bearer {KEY}")) {
        return json_answer(StatusCode::UNAUTHORIZED, &json!({ "errors": [{ "message": "no" }] }));
    }
    assert_eq!(header("clerk-api-version"), Some("2026-05-12"));
    if let Some(traceparent) = header("traceparent") {
        state.traced.insert(request.uri().path().to_owned(), traceparent.to_owned());
    }
    let fault = state.faults.pop_front();
    match fault {
        Some(Fault::TooMany) => {
            return too_many("0");
        }
        Some(Fault::Broken) => return json_answer(StatusCode::INTERNAL_SERVER_ERROR, &json!({})),
        Some(Fault::Truncated) => {
            return Response::new(Full::from("{\"data\": [{\"id\": \"cpl"));
        }
        Some(Fault::Moved) => {
            let mut plan = state.plans[0].clone();
            plan["id"] = json!(format!("cplan_{}", state.requests));
            plan["slug"] = json!(format!("moved_{}", state.requests));
            state.plans.insert(0, plan);
        }
        None => {}
    }
    let path: Vec<_> = request.uri().path().trim_start_matches("/v1/").split('/').collect();
    if let Some(answer) = demanded(state, &path) {
        return answer;
    }
    match path[..] {
        ["instance"] => json_answer(StatusCode::OK, &json!({ "id": state.instance })),
        ["billing", "plans"] => page(&state.plans, request.uri().query()),
        ["billing", "subscription_items"] => page(&state.items, request.uri().query()),
        ["users" | "organizations", subject, "billing", "subscription"] => {
            match state.subscriptions.get(subject) {
                Some(found) => json_answer(StatusCode::OK, found),
                None => json_answer(StatusCode::NOT_FOUND, &json!({ "errors": [] })),
            }
        }
        _ => json_answer(StatusCode::BAD_REQUEST, &json!({ "errors": [{ "message": "what?" }] })),
    }
}

/// Counts a request about a subject or `plans`, and returns its fixed response, if any.
fn demanded(state: &mut State, path: &[&str]) -> Option<Response<Full<Bytes>>> {
    let about = match path {
        ["billing", "plans"] => "plans",
        [_, subject, "billing", "subscription"] => subject,
        _ => return None,
    };
    *state.request_counts.entry(about.to_owned()).or_default() += 1;
    let (status, body) = state.answers.get(about)?;
    let mut answer = Response::new(Full::from(body.clone()));
    *answer.status_mut() = StatusCode::from_u16(*status).unwrap();
    Some(answer)
}

fn too_many(retry_after: &str) -> Response<Full<Bytes>> {
    let mut answer = json_answer(StatusCode::TOO_MANY_REQUESTS, &json!({}));
    answer.headers_mut().insert("retry-after", retry_after.parse().unwrap());
    answer
}

/// At most three rows a page, so that there are several.
fn page(rows: &[Value], query: Option<&str>) -> Response<Full<Bytes>> {
    let query: HashMap<_, _> =
        query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect();
    let number = |key: &str| query.get(key).and_then(|n| n.parse::<usize>().ok());
    let limit = number("limit").unwrap_or(10).min(if rows.len() > 100 { 500 } else { 3 });
    let offset = number("offset").unwrap_or(0).min(rows.len());
    let data = &rows[offset..(offset + limit).min(rows.len())];
    json_answer(StatusCode::OK, &json!({ "data": data, "total_count": rows.len() }))
}

fn json_answer(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(body.to_string()));
    *answer.status_mut() = status;
    answer
}

/// Builds a subscription of the Backend API from a webhook body.
pub fn subscription(event: &str) -> Value {
    let mut event: Value = serde_json::from_str(event).unwrap();
    let mut data = event["data"].take();
    let object = data.as_object_mut().unwrap();
    object.remove("payer");
    let items = object.remove("items").unwrap();
    object.insert("subscription_items".into(), items);
    data
}

/// Builds a listed item of the Backend API from a webhook's item.
pub fn item(event: &str) -> Value {
    let mut event: Value = serde_json::from_str(event).unwrap();
    event["data"].take()
}
