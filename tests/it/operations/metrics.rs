//! The metrics page and its documentation.

use crate::{
    support::database::Db,
    support::metrics::{Names, documented, sample},
    support::service::{ADA, Replica, eventually, payload},
};
use entitlements::api::pb::{self, CheckFeatureRequest};

/// The metrics of a page; samples are grouped by the name in their `# TYPE` line.
fn exposed(page: &str) -> Names {
    let mut names = Names::new();
    let mut current = (String::new(), "");
    for line in page.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            current = (format!("{name}{suffix}"), kind);
            names.entry(current.0.clone()).or_default();
        } else if !line.starts_with('#') {
            let (sample, labels) = match line.split_once('{') {
                Some((sample, rest)) => (sample, rest.rsplit_once('}').unwrap().0),
                None => (line.split(' ').next().unwrap(), ""),
            };
            assert!(sample.starts_with(&*current.0), "{line}");
            let labels = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0));
            let of_buckets = |label: &&str| *label == "le" && current.1 == "histogram";
            let labels = labels.filter(|label| !of_buckets(label)).map(str::to_owned);
            names.entry(current.0.clone()).or_default().extend(labels);
        }
    }
    names
}

async fn page(replica: &Replica) -> String {
    replica.get("/metrics").await.1
}

#[tokio::test]
async fn the_documented_metrics_are_those_of_the_page_and_none_has_an_id() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    replica.check(ADA, "", "export").await;
    let page = page(&replica).await;
    let (documented, exposed) = (documented(), exposed(&page));
    assert_eq!(documented, exposed, "docs/metrics.md on the left, the page on the right");
    for id in ["user_", "org_", "msg_", "export", "=\"pro\""] {
        assert!(!page.contains(id), "{id} in:\n{page}");
    }
}

#[tokio::test]
async fn calls_are_counted_by_method_and_code() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.check(ADA, "", "export").await;
    let mut client = replica.client.clone();
    client.check_feature(CheckFeatureRequest::default()).await.unwrap_err();
    let request = pb::ListEntitlementsRequest { user_id: ADA.into(), ..Default::default() };
    client.list_entitlements(request).await.unwrap();
    let page = page(&replica).await;
    for (name, count) in [
        ("entitlements_calls_total{method=\"CheckFeature\",code=\"OK\"}", 1.0),
        ("entitlements_calls_total{method=\"CheckFeature\",code=\"INVALID_ARGUMENT\"}", 1.0),
        ("entitlements_calls_total{method=\"ListEntitlements\",code=\"OK\"}", 1.0),
        ("entitlements_calls_total{method=\"other\",code=\"OK\"}", 1.0),
        ("entitlements_calls_in_progress", 0.0),
    ] {
        assert_eq!(sample::<f64>(&page, name), Some(count), "{name} in:\n{page}");
    }
}

#[tokio::test]
async fn the_gauges_show_the_state_of_the_database() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    replica.send("not json").await;
    replica.check(ADA, "", "export").await;
    eventually("the gauges show the state", async || {
        replica.check(ADA, "", "export").await; // the cache updates its counters when it is used
        let page = page(&replica).await;
        let is = |name: &str, wanted: f64| sample(&page, name) == Some(wanted);
        let more = |name: &str, least: f64| sample::<f64>(&page, name).is_some_and(|is| is > least);
        is("entitlements_listening", 1.0)
            && is("entitlements_cache_entries", 1.0)
            && more("entitlements_cache_bytes", 100.0)
            && is("entitlements_pool_limit{pool=\"checks\"}", 8.0)
            && more("entitlements_pool_size{pool=\"webhooks\"}", 0.0)
            && more("entitlements_pool_idle{pool=\"webhooks\"}", 0.0)
            && is("entitlements_notification_queue_ratio", 0.0)
            && sample::<f64>(&page, "entitlements_clock_skew_seconds").unwrap().abs() < 1.0
            && is("entitlements_webhook_duration_seconds_count{answer=\"2xx\"}", 2.0)
    })
    .await;
    let (page, now) = (page(&replica).await, chrono::Utc::now().timestamp());
    if cfg!(target_os = "linux") {
        let started = sample::<f64>(&page, "process_start_time_seconds").unwrap();
        #[expect(clippy::cast_precision_loss, reason = "seconds are precise enough")]
        let age = now as f64 - started;
        assert!((-2.0..86_400.0).contains(&age), "{age}");
        assert!(sample::<f64>(&page, "process_resident_memory_bytes").unwrap() > 1e6);
        let (open, most) =
            (sample::<f64>(&page, "process_open_fds"), sample(&page, "process_max_fds"));
        assert!(open > Some(5.0) && open < most, "{open:?} {most:?}");
        assert!(sample::<f64>(&page, "process_cpu_seconds_total").unwrap() > 0.0);
    }
}

#[tokio::test]
async fn a_replica_reports_deliveries_parked_before_it_started() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send("not json").await;
    replica.stop().await.unwrap();
    let replica = Replica::start(&db).await;
    eventually("the parked delivery is reported", async || {
        sample(&page(&replica).await, "entitlements_deliveries_parked") == Some(1.0)
    })
    .await;
}
