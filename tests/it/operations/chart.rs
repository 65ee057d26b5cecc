//! The chart, as helm renders it: each setting, port, path and mount matches the binary, and the Jobs run in the right
//! order. Without helm, the tests are skipped.

use crate::{
    support::database::Db,
    support::manifests::{Chart, Container, Image, chart, file, mounts, ports},
    support::service::{Replica, payload, plain_http},
};
use serde_json::{Value, json};
use std::fs;
use tempfile::TempDir;

/// The path that Clerk calls.
const WEBHOOKS: &str = "/webhooks/clerk";
/// The catalog of most tests.
const CATALOG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/catalog.example.toml");
/// The fewest values with which the chart is rendered.
const FEWEST: &str = "image.repository=x,access.insecure=true";
/// The folder below which the pods mount their files.
const FOLDER: &str = "/etc/entitlements";
/// The names of the objects of the release `billing`.
const SERVICE: &str = "billing-entitlements";
const MIGRATE: &str = "billing-entitlements-migrate";
const APPLY: &str = "billing-entitlements-catalog";
const ROLL_BACK: &str = "billing-entitlements-catalog-rollback";
/// The variables that need secrets. The tests start `serve` without them, which is allowed only on loopback addresses.
const SECRETS: [&str; 8] = [
    "CLERK_WEBHOOK_SIGNING_SECRET",
    "ENTITLEMENTS_CALLERS",
    "ENTITLEMENTS_API_TLS_CERT",
    "ENTITLEMENTS_API_TLS_KEY",
    "ENTITLEMENTS_API_CLIENT_CA",
    "ENTITLEMENTS_OPERATOR_TLS_CERT",
    "ENTITLEMENTS_OPERATOR_TLS_KEY",
    "ENTITLEMENTS_INSECURE",
];

/// The chart with all that it can have.
fn complete() -> Option<Chart> {
    let everything = [
        "image.repository=registry.example.org/entitlements",
        "access.callersSecret=callers,access.tlsSecret=tls,access.clientCertificates=true",
        "access.operatorTls=true",
        "ingress.enabled=true,ingress.host=billing.example.org,ingress.tlsSecret=web",
        "autoscaling.enabled=true,networkPolicy.enabled=true,serviceMonitor.enabled=true",
        "migrate.grantTo={clerk,support}",
    ];
    chart(&everything, Some(CATALOG))
}

/// The specification of the pods of an object.
fn pod<'a>(chart: &'a Chart, kind: &str, name: &str) -> &'a Value {
    &chart.named(kind, name)["spec"]["template"]["spec"]
}

/// A folder with the catalog file of a `ConfigMap`, as the pods see it.
fn mounted(chart: &Chart, config_map: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let content = chart.named("ConfigMap", config_map)["data"]["catalog.toml"].as_str().unwrap();
    fs::create_dir(folder.path().join("catalog")).unwrap();
    fs::write(folder.path().join("catalog/catalog.toml"), content).unwrap();
    folder
}

async fn status(base: &str, path: &str) -> u16 {
    plain_http().get(format!("{base}{path}")).send().await.unwrap().status().as_u16()
}

/// Whether a selector matches a pod with these labels.
fn selects(selector: &Value, labels: &Value) -> bool {
    selector.as_object().unwrap().iter().all(|(name, value)| labels[name] == *value)
}

#[tokio::test]
async fn each_variable_and_each_file_of_the_pods_exists() {
    let (Some(chart), image) = (complete(), Image::read()) else { return };
    for (kind, name) in [("Deployment", SERVICE), ("Job", MIGRATE), ("Job", APPLY)] {
        let pod = pod(&chart, kind, name);
        let container = Container::of_pod(pod, &image);
        container.check_settings(&[]).await;
        for (path, variable) in container.files() {
            let folder = path.rsplit_once('/').unwrap().0;
            assert!(mounts(pod, folder), "{variable} names {path}: not mounted");
        }
        assert_eq!(pod["securityContext"]["runAsUser"], image.user().unwrap(), "{name}");
        let security = &pod["containers"][0]["securityContext"];
        assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
    }
    let arguments = &pod(&chart, "Job", MIGRATE)["containers"][0]["args"];
    assert_eq!(*arguments, json!(["migrate", "--grant-to=clerk", "--grant-to=support"]));
}

#[test]
fn the_services_of_the_chart_lead_to_the_replicas_and_not_to_the_jobs() {
    let Some(chart) = complete() else { return };
    let deployment = chart.named("Deployment", SERVICE);
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    let ports = ports(pod(&chart, "Deployment", SERVICE));
    assert_eq!(ports, Image::read().ports());
    for service in chart.all("Service") {
        assert!(selects(&service["spec"]["selector"], labels), "{service}");
        for port in service["spec"]["ports"].as_array().unwrap() {
            assert!(ports.contains_key(port["targetPort"].as_str().unwrap()), "{port}");
        }
    }
    for kind in ["Deployment", "PodDisruptionBudget"] {
        let selector = &chart.one(kind)["spec"]["selector"]["matchLabels"];
        assert!(selects(selector, labels), "{kind}");
        for job in chart.all("Job") {
            let labels = &job["spec"]["template"]["metadata"]["labels"];
            assert!(!selects(selector, labels), "{kind}: {job} is a replica");
        }
    }
}

#[tokio::test]
async fn the_chart_starts_the_service_as_it_is() {
    let (Some(chart), image) = (complete(), Image::read()) else { return };
    let (db, folder) = (Db::new().await, mounted(&chart, SERVICE));
    let pod = pod(&chart, "Deployment", SERVICE);
    let container = Container::of_pod(pod, &image).at(FOLDER, folder.path(), &db.url);

    let span = |name| *container.variables[name].parse::<humantime::Duration>().unwrap();
    let grace_period = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    let stop = span("ENTITLEMENTS_STOP_DELAY") + span("ENTITLEMENTS_STOP_WITHIN");
    assert!(stop.as_secs() < grace_period, "killed while draining");

    let process = container.serve(&image, &db.url, &SECRETS).await;
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let probe = &pod["containers"][0][probe]["httpGet"];
        assert_eq!(probe["port"], "operator", "{probe}");
        let path = probe["path"].as_str().unwrap();
        assert_eq!(status(&process.internal, path).await, 200, "{probe}");
    }
    let scraped = &chart.one("ServiceMonitor")["spec"]["endpoints"][0];
    assert_eq!(status(&process.internal, scraped["path"].as_str().unwrap()).await, 200);
    let ingress = &chart.one("Ingress")["spec"]["rules"][0]["http"]["paths"];
    let paths: Vec<_> = ingress.as_array().unwrap().iter().map(|path| &path["path"]).collect();
    assert_eq!(paths, [WEBHOOKS]);
    assert_eq!(status(&process.http, WEBHOOKS).await, 405, "there, and not for GET");
    assert!(process.terminate().await);
}

#[test]
fn probes_and_scrapes_of_the_chart_speak_tls_where_the_service_does() {
    for (access, scheme) in
        [("tlsSecret=tls,access.operatorTls=true", "HTTPS"), ("tlsSecret=tls", "HTTP")]
    {
        let values = [
            "image.repository=x,access.callersSecret=callers,serviceMonitor.enabled=true",
            &format!("access.{access}"),
        ];
        let Some(chart) = chart(&values, None) else { return };
        let pod = &chart.one("Deployment")["spec"]["template"]["spec"];
        let variables = Container::of_pod(pod, &Image::read()).variables;
        let speaks_tls = scheme == "HTTPS";
        for name in ["ENTITLEMENTS_OPERATOR_TLS_CERT", "ENTITLEMENTS_OPERATOR_TLS_KEY"] {
            assert_eq!(variables.contains_key(name), speaks_tls, "{access}: {name}");
        }
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            assert_eq!(
                pod["containers"][0][probe]["httpGet"]["scheme"], scheme,
                "{access}: {probe}"
            );
        }
        let scraped = &chart.one("ServiceMonitor")["spec"]["endpoints"][0];
        let verified = json!({
            "serverName": "billing-entitlements.default.svc",
            "ca": { "secret": { "name": "tls", "key": "ca.crt" } },
        });
        let expected = if speaks_tls { (json!("https"), verified) } else { Default::default() };
        assert_eq!(
            (&scraped["scheme"], &scraped["tlsConfig"]),
            (&expected.0, &expected.1),
            "{access}"
        );
    }
}

#[test]
fn the_chart_rejects_values_that_would_not_run_or_would_show_a_secret() {
    let image = "image.repository=registry.example.org/entitlements";
    for (values, words) in [
        (vec!["access.insecure=true"], "image.repository is not set"),
        (vec![image], "nobody may call yet"),
        (vec![image, "access.clientCertificates=true"], "needs access.tlsSecret"),
        (vec![image, "access.operatorTls=true"], "access.operatorTls needs access.tlsSecret"),
        (vec![image, "access.insecure=true,replica=2"], "additional properties 'replica'"),
        (vec![image, "access.insecure=true", "settings.CLERK_SECRET_KEY=sk"], "CLERK_SECRET_KEY"),
        (vec![image, "access.insecure=true,ingress.enabled=true"], "ingress.host is not set"),
        (vec![image, "access.insecure=true,catalogApply.mostLosses=-1"], "mostLosses"),
    ] {
        let Some(chart) = chart(&values, None) else { return };
        assert!(chart.refusal.contains(words), "{values:?}: {}", chart.refusal);
    }
}

#[test]
fn the_catalog_is_applied_after_the_migrations_and_also_before_a_rollback() {
    let applied = "catalogApply.mostLosses=3,catalogApply.reason=no more exports";
    let Some(chart) = chart(&[FEWEST, applied], Some(CATALOG)) else { return };
    let hook = |object: &Value, name: &str| {
        object["metadata"]["annotations"][format!("helm.sh/hook{name}")]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let weight = |object| hook(object, "-weight").parse::<i32>().unwrap();
    let (content, job) = (chart.named("ConfigMap", APPLY), chart.named("Job", APPLY));
    let rollback = chart.named("Job", ROLL_BACK);
    for (object, events) in [
        (content, "pre-install,pre-upgrade,pre-rollback"),
        (job, "pre-install,pre-upgrade"),
        (rollback, "pre-rollback"),
    ] {
        assert_eq!(hook(object, ""), events);
        assert_eq!(hook(object, "-delete-policy"), "before-hook-creation,hook-succeeded");
    }
    let migrate = chart.named("Job", MIGRATE);
    assert_eq!(hook(migrate, ""), "pre-install,pre-upgrade", "no migration is undone");
    assert!(weight(migrate) < weight(content) && weight(content) < weight(job));
    assert_eq!(weight(job), weight(rollback));
    // Before an installation, the ConfigMap of the release does not exist yet; before an upgrade, it is the old one.
    assert_eq!(content["data"], chart.named("ConfigMap", SERVICE)["data"]);
    for (name, consent) in [(APPLY, "--most-losses=3"), (ROLL_BACK, "--yes")] {
        let pod = pod(&chart, "Job", name);
        assert_eq!(pod["volumes"][0]["configMap"]["name"], APPLY);
        assert!(mounts(pod, "/etc/entitlements/catalog"));
        let file = "/etc/entitlements/catalog/catalog.toml";
        let by = "--by=helm: billing revision 1";
        let arguments = json!(["catalog", "apply", file, consent, by, "--reason=no more exports"]);
        assert_eq!(pod["containers"][0]["args"], arguments);
    }
}

#[tokio::test]
async fn the_job_of_the_chart_applies_a_catalog_and_refuses_one_that_takes_too_much_away() {
    let Some(chart) = chart(&[FEWEST], Some(CATALOG)) else { return };
    let (db, folder) = (Db::new().await, mounted(&chart, APPLY));
    let job = Container::of_pod(pod(&chart, "Job", APPLY), &Image::read());
    let job = job.at(FOLDER, folder.path(), &db.url);
    for attempt in ["the first", "a second, with the catalog in force"] {
        let (code, output) = job.run();
        assert_eq!(code, 0, "{attempt}: {output}");
    }
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    replica.stop().await.unwrap();

    let catalog = folder.path().join("catalog/catalog.toml");
    let text = fs::read_to_string(&catalog).unwrap();
    fs::write(&catalog, text.replace("\"export\", ", "")).unwrap();
    let (code, output) = job.run();
    assert_eq!(code, 1, "{output}");
    // Kubernetes must not start another attempt.
    let rule = &chart.named("Job", APPLY)["spec"]["podFailurePolicy"]["rules"][0];
    assert_eq!(
        (&rule["action"], &rule["onExitCodes"]["values"]),
        (&json!("FailJob"), &json!([code]))
    );
}

#[test]
fn the_chart_applies_no_catalog_without_one_or_if_that_is_off() {
    for (values, catalog) in [(FEWEST, None), ("catalogApply.enabled=false", Some(CATALOG))] {
        let Some(chart) = chart(&[FEWEST, values], catalog) else { return };
        assert_eq!(chart.one("Job")["metadata"]["name"], MIGRATE, "{values}");
        assert_eq!(chart.all("ConfigMap").len(), usize::from(catalog.is_some()), "{values}");
    }
}

#[test]
fn a_new_catalog_reaches_the_pods_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("catalog.toml");
    fs::write(&other, file("catalog.example.toml").replace("\"export\", ", "")).unwrap();
    let Some(one) = chart(&[FEWEST], Some(CATALOG)) else { return };
    let other = chart(&[FEWEST], other.to_str()).unwrap();
    assert_eq!(one.one("Deployment"), other.one("Deployment"));
    let content = |chart: &Chart| chart.named("ConfigMap", SERVICE)["data"].clone();
    assert_ne!(content(&one), content(&other));
    let pod = pod(&one, "Deployment", SERVICE);
    // A folder follows its ConfigMap; a file that is mounted alone (`subPath`) does not.
    assert!(pod["containers"][0]["volumeMounts"][0]["subPath"].is_null());
    assert!(mounts(pod, "/etc/entitlements/catalog"));
}
