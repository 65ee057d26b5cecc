//! Traces as an OTLP collector receives them.

use crate::{
    support::database::Db,
    support::fake_clerk::{Clerk, KEY},
    support::service::{ADA, Replica, SECRET, config, eventually, payload, secret},
    support::shell::Shell,
};
use chrono::Utc;
use entitlements::api::pb::CheckFeatureRequest;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::{Span, span::SpanKind},
};
use std::{
    fmt::Write,
    sync::{Arc, Mutex},
};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

/// A collector that stores the received spans.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    services: Arc<Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            self.services.lock().unwrap().push(format!("{:?}", resource.resource));
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.spans.lock().unwrap().extend(spans);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Starts a collector, and returns it with its URL.
    fn start() -> (Self, String) {
        let (collector, listener) =
            (Self::default(), TcpIncoming::bind("127.0.0.1:0".parse().unwrap()));
        let listener = listener.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::new(collector.clone());
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(listener));
        (collector, url)
    }

    fn named(&self, name: &str) -> Vec<Span> {
        let spans = self.spans.lock().unwrap();
        spans.iter().filter(|span| span.name == name).cloned().collect()
    }

    fn one(&self, name: &str) -> Span {
        let found = self.named(name);
        let names: Vec<_> = self.spans.lock().unwrap().iter().map(|s| s.name.clone()).collect();
        assert_eq!(found.len(), 1, "{name} in {names:?}");
        found[0].clone()
    }
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";
const CHECK: &str = "entitlements.v1.Entitlements/CheckFeature";
const LOAD: &str = "load an account";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// A replica that sends its traces to this collector.
async fn replica(db: &Db, url: &str) -> Replica {
    let mut config = config(db);
    config.otlp_endpoint = Some(url.into());
    Replica::start_with(config).await
}

async fn check(replica: &Replica, user: &str, flags: Option<&str>) {
    let mut request = Request::new(CheckFeatureRequest {
        user_id: user.into(),
        feature: "export".into(),
        ..Default::default()
    });
    if let Some(flags) = flags {
        let traceparent = format!("00-{TRACE}-{CALLER}-{flags}");
        request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    }
    replica.client.clone().check_feature(request).await.unwrap();
}

#[tokio::test]
async fn a_delivery_is_traced_from_its_request_to_the_change_log() {
    let (db, (collector, url)) = (Db::new().await, Collector::start());
    let replica = replica(&db, &url).await;
    let (body, now) = (payload("subscriptionItem.active"), Utc::now().timestamp());
    let headers = [
        ("svix-id", "msg_1".to_owned()),
        ("svix-timestamp", now.to_string()),
        ("svix-signature", secret().sign("msg_1", now, &body)),
        ("traceparent", format!("00-{TRACE}-{CALLER}-01")),
    ];
    assert_eq!(replica.post(&headers, body).await.result(), "applied");
    replica.stop().await.unwrap();

    let request = collector.one("POST /webhooks/clerk");
    assert_eq!(
        (hex(&request.trace_id), hex(&request.parent_span_id)),
        (TRACE.into(), CALLER.into())
    );
    assert_eq!(request.kind, SpanKind::Server as i32);
    let recorded = collector.one("write the delivery and the change log");
    assert_eq!(recorded.trace_id, request.trace_id);
    assert_eq!(recorded.parent_span_id, request.span_id);
    assert!(recorded.start_time_unix_nano >= request.start_time_unix_nano);
    assert!(recorded.end_time_unix_nano <= request.end_time_unix_nano);
    let attributes = format!("{recorded:?}");
    assert!(attributes.contains("msg_1") && attributes.contains("applied"), "{attributes}");
    let services = collector.services.lock().unwrap().join(" ");
    assert!(services.contains("\"entitlements\""), "{services}");
    let all = format!("{:?}", collector.spans.lock().unwrap());
    assert!(!all.contains(&SECRET[6..]) && !all.contains('@'), "{all}");
}

#[tokio::test]
async fn a_check_is_traced_if_its_caller_traces_it_and_a_load_in_any_case() {
    let (db, (collector, url)) = (Db::new().await, Collector::start());
    let replica = replica(&db, &url).await;
    check(&replica, ADA, Some("01")).await; // loads the account
    check(&replica, ADA, Some("01")).await; // from the cache
    for _ in 0..20 {
        check(&replica, ADA, None).await;
        check(&replica, ADA, Some("00")).await;
    }
    check(&replica, "user_stranger", None).await; // loads an account, for a caller without a trace
    replica.stop().await.unwrap();

    let checks = collector.named(CHECK);
    assert_eq!(checks.len(), 2, "{checks:?}");
    for check in &checks {
        assert_eq!(
            (hex(&check.trace_id), hex(&check.parent_span_id)),
            (TRACE.into(), CALLER.into())
        );
        assert!(format!("{check:?}").contains("rpc.grpc.status_code"), "{check:?}");
    }
    let loads = collector.named(LOAD);
    let [traced, alone] = &loads[..] else { panic!("{loads:?}") };
    assert!(checks.iter().any(|check| check.span_id == traced.parent_span_id), "{loads:?}");
    assert_eq!(hex(&traced.trace_id), TRACE);
    assert!(alone.parent_span_id.is_empty() && hex(&alone.trace_id) != TRACE, "{alone:?}");
}

#[tokio::test]
async fn requests_to_clerk_continue_the_trace() {
    let (db, (collector, url)) = (Db::new().await, Collector::start());
    let clerk = Clerk::start().await;
    let mut config = config(&db);
    config.otlp_endpoint = Some(url);
    config.backend_api = Some(clerk.access(KEY));
    let replica = Replica::launch(config).await;
    eventually("Clerk was asked for its plans", async || {
        clerk.state.lock().unwrap().traced.contains_key("/v1/billing/plans")
    })
    .await;
    replica.serving().await;
    eventually("the plans are in force", async || {
        replica.get("/metrics").await.1.contains("catalog_version 2")
    })
    .await;
    replica.stop().await.unwrap();

    let request = collector.one("ask Clerk for its plans");
    let sent = clerk.state.lock().unwrap().traced["/v1/billing/plans"].clone();
    let expected = format!("00-{}-{}-01", hex(&request.trace_id), hex(&request.span_id));
    assert_eq!(sent, expected);
    assert_eq!(request.kind, SpanKind::Client as i32);
}

#[tokio::test]
async fn without_a_collector_no_spans_are_made_and_an_unreachable_one_causes_no_failures() {
    let db = Db::new().await;
    let replica = replica(&db, "http://127.0.0.1:1").await;
    check(&replica, ADA, Some("01")).await;
    assert_eq!(replica.send(&payload("subscriptionItem.active")).await.result(), "applied");
    replica.stop().await.unwrap();

    let clerk = Clerk::start().await;
    let mut config = config(&db);
    config.backend_api = Some(clerk.access(KEY));
    let replica = Replica::launch(config).await;
    eventually("Clerk was asked", async || clerk.state.lock().unwrap().requests > 1).await;
    replica.stop().await.unwrap();
    assert!(clerk.state.lock().unwrap().traced.is_empty());

    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4317");
    let secret = ("CLERK_WEBHOOK_SIGNING_SECRET", SECRET);
    let shell = Shell::new(&[endpoint, secret, ("DATABASE_URL", &db.url)]);
    let (code, _, stderr) = shell.run(&["serve"]).await;
    assert!(code == 2 && stderr.contains("must be as http://host:4317"), "{stderr}");
}

#[tokio::test]
async fn unsigned_requests_are_counted_and_begin_no_span() {
    let (db, (collector, url)) = (Db::new().await, Collector::start());
    let replica = replica(&db, &url).await;
    let now = Utc::now().timestamp();
    let traceparent = ("traceparent", format!("00-{TRACE}-{CALLER}-01"));
    let unsigned = [
        traceparent.clone(),
        ("svix-id", "msg_1".to_owned()),
        ("svix-timestamp", now.to_string()),
        ("svix-signature", "v1,AAAA".to_owned()),
    ];
    for _ in 0..10 {
        assert_eq!(replica.post(std::slice::from_ref(&traceparent), "").await.status, 400);
        assert_eq!(replica.post(&unsigned, "{}").await.status, 401);
    }
    for refused in ["{status=\"400\"} 10", "{status=\"401\"} 10"] {
        let (_, metrics) = replica.get("/metrics").await;
        let line = format!("entitlements_webhooks_refused_total{refused}");
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
    replica.stop().await.unwrap();
    assert_eq!(collector.named("POST /webhooks/clerk").len(), 0);
}
