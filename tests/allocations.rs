//! The allocations of a check of a cached account: none for loading and deciding, and no more for a gRPC call than with
//! a handler that returns a fixed answer.

use allocation_counter::measure;
use chrono::Utc;
use embedded_postgres::{Binaries, Embedded};
use entitlements::{
    api::{
        self, AuthLayer, OptionalServices,
        pb::{
            self, CheckFeatureRequest, CheckFeatureResponse,
            entitlements_client::EntitlementsClient,
            entitlements_server::{Entitlements, EntitlementsServer},
        },
    },
    check::{Evaluator, Subjects},
    clerk::Verified,
    domain::{Catalog, Kind, Question, SubjectRef},
    ingest::{Deliveries, ServedInstance},
    replica::{Accounts, Consistency},
    server::grpc::CallMetrics,
    storage::{self, Author, Origin, Store},
    telemetry::Telemetry,
};
use futures_util::FutureExt;
use std::{
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
    loading_and_deciding(&checks);
    grpc_call(&runtime, checks);
    runtime.block_on(postgres.stop()).unwrap();
}

/// An evaluator for two subjects, whose database is read once.
async fn checks() -> (Evaluator, Embedded) {
    let postgres = Embedded::temporary(&Binaries::from_env().unwrap()).await.unwrap();
    let options = postgres.url("entitlements").parse().unwrap();
    storage::migrate(&options).await.unwrap();
    let (store, telemetry) = (Store::new(options), Telemetry::default());
    let catalog = Catalog::from_toml(include_str!("../catalog.example.toml")).unwrap();
    store.apply_catalog(Author::Replica, &catalog, Origin::service("the example")).await.unwrap();
    let hour = Duration::from_hours(1);
    let accounts = Accounts::new(store.clone(), 1 << 20, hour, hour, telemetry.clone());
    let accounts = Arc::new(accounts);
    accounts.reload_catalog().await.unwrap();
    accounts.freshness().caught_up(Instant::now() + hour); // covers the duration of this test
    let deliveries =
        Deliveries::new(store, accounts.clone(), ServedInstance::default(), telemetry.clone());
    for (n, body) in DELIVERED.into_iter().enumerate() {
        let verified = Verified { id: format!("msg_{n}"), signed_at: Utc::now() };
        let taken = deliveries.take(&verified, body.into(), Utc::now()).await.unwrap();
        assert_eq!(taken.name(), "applied");
    }
    let checks = Evaluator::new(accounts, &telemetry.metrics, None);
    checks.evaluated_accounts(subjects(), &Consistency::default()).await.unwrap(); // loads from the database
    (checks, postgres)
}

fn subjects() -> Subjects<'static> {
    let user = SubjectRef::of(Kind::User, USER).unwrap();
    Subjects::of(Some(user), Some(SubjectRef::of(Kind::Organization, ORGANIZATION).unwrap()))
        .unwrap()
}

fn loading_and_deciding(checks: &Evaluator) {
    let check = || {
        let question = Question::feature("org:sso").unwrap();
        let evaluated =
            checks.evaluated_accounts(subjects(), &Consistency::default()).now_or_never();
        let evaluated = evaluated.expect("what is cached is not waited for").unwrap();
        let evaluation = checks.context();
        black_box(evaluation.decide(&evaluated, &question));
    };
    (0..100).for_each(|_| check()); // allocations that a thread makes once
    let counted = measure(|| (0..1_000).for_each(|_| check()));
    assert_eq!(counted.count_total, 0, "{counted:?}");
    let taken_along = size_of_val(&checks.evaluated_accounts(subjects(), &Consistency::default()));
    assert!(taken_along <= 512, "{taken_along} bytes are moved with each call");
}

fn grpc_call(runtime: &Runtime, checks: Evaluator) {
    let (_, health) = tonic_health::server::health_reporter();
    let api = api::EntitlementsApi::new(Arc::new(checks));
    let ours = api::Services::new(api, OptionalServices::default(), health).unwrap();
    let ours = runtime.block_on(connect(ours));
    let answer = call(runtime, &ours);
    assert!(answer.allowed && answer.subject == ORGANIZATION, "{answer:?}");
    let fixed = EntitlementsServer::new(FixedAnswer(answer));
    let fixed = runtime.block_on(connect(fixed));
    let (ours, fixed) = (cost(runtime, &ours), cost(runtime, &fixed));
    assert!(fixed > 0);
    assert!(ours <= fixed, "a check allocates {ours} times, a fixed answer {fixed}");
}

/// Connects to these services over a socket.
async fn connect<S>(services: S) -> EntitlementsClient<Channel>
where
    S: api::GrpcServices,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let telemetry = Telemetry::default();
    let api = api::Api {
        services,
        auth_layer: AuthLayer::default(),
        protocols: api::Protocols::none(None, None, telemetry.metrics.clone()),
        calls: Arc::new(CallMetrics::new(telemetry, pb::DESCRIPTOR)),
        age: Duration::from_mins(10),
    };
    tokio::spawn(api.serve(listener.into(), CancellationToken::new()));
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

/// The number of allocations of both sides of a call after all buffers have grown: the minimum of many calls.
fn cost(runtime: &Runtime, client: &EntitlementsClient<Channel>) -> u64 {
    let count = |_| measure(|| drop(call(runtime, client))).count_total;
    (0..50).map(count).min().unwrap()
}

/// A handler that returns a fixed answer.
struct FixedAnswer(CheckFeatureResponse);

#[tonic::async_trait]
impl Entitlements for FixedAnswer {
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
        Err(Status::unimplemented("not called"))
    }

    async fn check_plan(
        &self,
        _: Request<pb::CheckPlanRequest>,
    ) -> Result<Response<pb::CheckPlanResponse>, Status> {
        Err(Status::unimplemented("not called"))
    }

    async fn list_entitlements(
        &self,
        _: Request<pb::ListEntitlementsRequest>,
    ) -> Result<Response<pb::ListEntitlementsResponse>, Status> {
        Err(Status::unimplemented("not called"))
    }
}
