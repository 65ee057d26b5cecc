//! What a check of a cached account allocates: to know and to decide, nothing; as a call, no more than a handler that
//! has the answer at hand.

use allocation_counter::measure;
use chrono::Utc;
use embedded_postgres::{Binaries, Embedded};
use entitlements::{
    api::{
        self, Beside, Door,
        pb::{
            self, CheckFeatureRequest, CheckFeatureResponse,
            entitlements_client::EntitlementsClient,
            entitlements_server::{Entitlements, EntitlementsServer},
        },
    },
    check::{Checks, Payers},
    clerk::Verified,
    domain::{Catalog, Grace, Id, Kind, Question},
    ingest::{Deliveries, ServedInstance},
    replica::{Accounts, Need},
    server::grpc::Calls,
    storage::{self, Author, Store},
    telemetry::Metrics,
};
use futures_util::FutureExt;
use http::Request as HttpRequest;
use hyper::body::Incoming;
use std::{
    convert::Infallible,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    body::Body,
    transport::{Channel, Endpoint},
};

const USER: &str = "user_3jKRaOPcHB95IyjLKz2dmcVGvBR";
const ORGANIZATION: &str = "org_33t5p7lH0lkGbc1kebn7yzQP47w";
const DELIVERED: [&[u8]; 2] = [
    include_bytes!("payloads/subscriptionItem.active.json"),
    include_bytes!("payloads/subscription.active.org-team.json"),
];

#[test]
fn a_cached_check_allocates_no_more_than_the_transport_does() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (checks, postgres) = runtime.block_on(checks());
    to_know_and_to_decide(&checks);
    as_a_call(&runtime, checks);
    runtime.block_on(postgres.stop()).unwrap();
}

/// Checks of two subjects, with a database behind them that is asked once.
async fn checks() -> (Checks, Embedded) {
    let postgres = Embedded::temporary(&Binaries::from_env().unwrap()).await.unwrap();
    let options = postgres.url("entitlements").parse().unwrap();
    storage::migrate(&options).await.unwrap();
    let (store, metrics) = (Store::new(options), Arc::new(Metrics::default()));
    let catalog = Catalog::from_toml(include_str!("../catalog.example.toml")).unwrap();
    store.apply_catalog(Author::File, &catalog, "the example").await.unwrap();
    let hour = Duration::from_hours(1);
    let accounts = Accounts::new(store.clone(), 1 << 20, hour, hour, metrics.clone());
    let accounts = Arc::new(accounts);
    accounts.reload_catalog().await.unwrap();
    accounts.freshness().heard(Instant::now() + hour); // all changes of the time of this test
    let deliveries =
        Deliveries::new(store, accounts.clone(), ServedInstance::default(), metrics.clone());
    for (n, body) in DELIVERED.into_iter().enumerate() {
        let verified = Verified { id: format!("msg_{n}"), signed_at: Utc::now() };
        let taken = deliveries.take(&verified, body.into(), Utc::now()).await.unwrap();
        assert_eq!(taken.word(), "applied");
    }
    let checks = Checks::new(accounts, Grace::default(), &metrics, None);
    checks.facts(payers(), &Need::default()).await.unwrap(); // from the database
    (checks, postgres)
}

fn payers() -> Payers<'static> {
    let user = Id::of(Kind::User, USER).unwrap();
    Payers::of(Some(user), Some(Id::of(Kind::Organization, ORGANIZATION).unwrap())).unwrap()
}

fn to_know_and_to_decide(checks: &Checks) {
    let check = || {
        let question = Question::feature("org:sso").unwrap();
        let facts = checks.facts(payers(), &Need::default()).now_or_never();
        let facts = facts.expect("what is cached is not waited for").unwrap();
        let moment = checks.moment();
        black_box(moment.decide(&facts, &question));
    };
    (0..100).for_each(|_| check()); // what a thread needs once
    let counted = measure(|| (0..1_000).for_each(|_| check()));
    assert_eq!(counted.count_total, 0, "{counted:?}");
    let taken_along = size_of_val(&checks.facts(payers(), &Need::default()));
    assert!(taken_along <= 512, "{taken_along} bytes are moved with each call");
}

fn as_a_call(runtime: &Runtime, checks: Checks) {
    let (_, health) = tonic_health::server::health_reporter();
    let api = api::Api::new(Arc::new(checks));
    let ours = api::Services::new(api, Beside::default(), health).unwrap();
    let ours = runtime.block_on(connect(ours));
    let answer = call(runtime, &ours);
    assert!(answer.allowed && answer.subject == ORGANIZATION, "{answer:?}");
    let at_hand = EntitlementsServer::new(AtHand(answer));
    let at_hand = runtime.block_on(connect(at_hand));
    let (ours, at_hand) = (cost(runtime, &ours), cost(runtime, &at_hand));
    assert!(at_hand > 0);
    assert!(ours <= at_hand, "a check allocates {ours} times, having the answer at hand {at_hand}");
}

/// A connection to these services, over a socket.
async fn connect<S>(services: S) -> EntitlementsClient<Channel>
where
    S: tower_service::Service<
            HttpRequest<Incoming>,
            Response = http::Response<Body>,
            Error = Infallible,
        >,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let calls = Arc::new(Calls::new(Arc::default(), pb::DESCRIPTOR));
    let stop = CancellationToken::new();
    let (door, age) = (Door::default(), Duration::from_mins(10));
    tokio::spawn(api::serve_grpc(listener.into(), door, services, calls, age, stop));
    let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    EntitlementsClient::new(channel)
}

fn call(runtime: &Runtime, client: &EntitlementsClient<Channel>) -> CheckFeatureResponse {
    let request = CheckFeatureRequest {
        user_id: USER.into(),
        organization_id: ORGANIZATION.into(),
        feature: "org:sso".into(),
        ..Default::default()
    };
    runtime.block_on(client.clone().check_feature(request)).unwrap().into_inner()
}

/// How often both sides of a call allocate, once all buffers have grown: the fewest of many.
fn cost(runtime: &Runtime, client: &EntitlementsClient<Channel>) -> u64 {
    let count = |_| measure(|| drop(call(runtime, client))).count_total;
    (0..50).map(count).min().unwrap()
}

/// A handler that has the answer at hand.
struct AtHand(CheckFeatureResponse);

#[tonic::async_trait]
impl Entitlements for AtHand {
    async fn check_feature(
        &self,
        _: Request<CheckFeatureRequest>,
    ) -> Result<Response<CheckFeatureResponse>, Status> {
        Ok(Response::new(self.0.clone()))
    }

    async fn check_features(
        &self,
        _: Request<pb::CheckFeaturesRequest>,
    ) -> Result<Response<pb::CheckFeaturesResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn check_plan(
        &self,
        _: Request<pb::CheckPlanRequest>,
    ) -> Result<Response<pb::CheckPlanResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn list_entitlements(
        &self,
        _: Request<pb::ListEntitlementsRequest>,
    ) -> Result<Response<pb::ListEntitlementsResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}
