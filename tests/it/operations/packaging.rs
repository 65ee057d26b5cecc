//! The deployment files: Dockerfile, compose.yaml, the chart and the workflow. Each setting that they name is a setting
//! of `serve`, each port and path exists, and `serve` starts with the settings that they provide.

use crate::{
    support::certificates::Authority,
    support::database::Db,
    support::manifests::{
        Container, Image, chart, documents, file, interpolate, mounts, ports, the,
    },
    support::process::Process,
    support::service::{Replica, SECRET, config, eventually, payload, plain_http},
    support::shell::Shell,
};
use entitlements::config::{Config, ListenerFiles};
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The path that Clerk calls.
const WEBHOOKS: &str = "/webhooks/clerk";
/// The settings of access control. They need secrets, so the tests start `serve` without them, which is allowed only on
/// loopback addresses.
const ACCESS: [&str; 7] = [
    "ENTITLEMENTS_CALLERS",
    "ENTITLEMENTS_API_TLS_CERT",
    "ENTITLEMENTS_API_TLS_KEY",
    "ENTITLEMENTS_API_CLIENT_CA",
    "ENTITLEMENTS_OPERATOR_TLS_CERT",
    "ENTITLEMENTS_OPERATOR_TLS_KEY",
    "ENTITLEMENTS_INSECURE",
];

/// The variables of a subcommand, from its `--help`.
async fn settings(command: &str) -> BTreeSet<String> {
    let (code, help, _) = Shell::new(&[("COLUMNS", "1000")]).run(&[command, "--help"]).await;
    assert_eq!(code, 0, "`entitlements {command}` is no command");
    let named = help.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next());
    named.map(str::to_owned).collect()
}

/// Checks that each variable of the container is a setting of its command.
async fn check_settings(container: &Container) {
    let known = settings(container.command()).await;
    for name in container.variables.keys() {
        assert!(known.contains(name), "{name} is no setting of `{}`", container.command());
    }
}

/// Starts `serve` with the variables of the container, and the test's own secrets and files.
async fn start(container: &Container, image: &Image, files: &BTreeMap<String, String>) -> Process {
    let folder = tempfile::tempdir().unwrap();
    let mut variables = image.variables.clone();
    variables.extend(container.variables.clone());
    variables.retain(|name, _| {
        let ours = ["DATABASE_URL", "CLERK_WEBHOOK_SIGNING_SECRET", "CLERK_SECRET_KEY"];
        !ACCESS.contains(&&**name) && !ours.contains(&&**name) && !name.ends_with("_LISTEN")
    });
    for value in variables.values_mut().filter(|value| value.starts_with("/etc/")) {
        let content = files.get(value).unwrap_or_else(|| panic!("nothing is mounted at {value}"));
        let path = folder.path().join(value.replace('/', "_"));
        fs::write(&path, content).unwrap();
        *value = path.display().to_string();
    }
    let variables: Vec<_> = variables.iter().map(|(name, value)| (&**name, &**value)).collect();
    Process::start(&Db::new().await.url, &variables).await
}

async fn status(base: &str, path: &str) -> u16 {
    plain_http().get(format!("{base}{path}")).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn the_health_check_of_containers_says_whether_the_service_is_ready() {
    let replica = Replica::start(&Db::new().await).await;
    let internal = replica.bound.operator;
    let everywhere = format!("0.0.0.0:{}", internal.port());
    for address in [internal.to_string(), everywhere] {
        let (code, stdout, _) =
            Shell::new(&[("ENTITLEMENTS_OPERATOR_LISTEN", &address)]).run(&["ready"]).await;
        assert_eq!((code, &*stdout), (0, "ready\n"), "{address}");
    }
    let nowhere = "postgres://me@127.0.0.1:1/none".parse().unwrap();
    let waiting = Replica::launch(Config { database: nowhere, ..config(&Db::absent()) }).await;
    let address = waiting.bound.operator.to_string();
    let (code, stdout, _) =
        Shell::new(&[("ENTITLEMENTS_OPERATOR_LISTEN", &address)]).run(&["ready"]).await;
    assert_eq!((code, &*stdout), (1, "has not read the database yet\n"));
    replica.stop().await.unwrap();
    let address = internal.to_string();
    let (code, _, stderr) =
        Shell::new(&[("ENTITLEMENTS_OPERATOR_LISTEN", &address)]).run(&["ready"]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("is `entitlements serve` running?"), "{stderr}");
}

#[tokio::test]
async fn the_health_check_speaks_tls_where_the_service_does() {
    let authority = Authority::new();
    let listeners = ListenerFiles {
        operator: Some(authority.listener()),
        client_ca: Some(authority.client_ca()),
        ..ListenerFiles::default()
    };
    let replica = Replica::start_with(Config { listeners, ..config(&Db::new().await) }).await;
    let address = format!("0.0.0.0:{}", replica.bound.operator.port());
    let plain = ("ENTITLEMENTS_OPERATOR_LISTEN", &*address);
    let (code, stdout, _) =
        Shell::new(&[plain, ("ENTITLEMENTS_OPERATOR_TLS_CERT", "cert.pem")]).run(&["ready"]).await;
    assert_eq!((code, &*stdout), (0, "ready\n"));
    let (code, _, stderr) = Shell::new(&[plain]).run(&["ready"]).await;
    assert_eq!(code, 1);
    assert!(
        stderr.contains(&format!("nothing answers on http://{}", replica.bound.operator)),
        "{stderr}"
    );
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

#[tokio::test]
async fn a_change_log_restored_from_another_cluster_is_pruned() {
    let db = Db::new().await;
    let pool = db.pool().await;
    // The transaction id is ahead of this cluster, so the row would be read again by every poll of the log.
    let insert = "insert into entitlements.change_log (subject, tx) select 'user_' || n, ($1 + n)::text::xid8
        from generate_series(1, 100) n";
    sqlx::query(insert).bind(1_i64 << 40).execute(&pool).await.unwrap();
    let replica = Replica::start(&db).await;
    let ours = "select count(*) filter (where tx < pg_snapshot_xmax(pg_current_snapshot())),
        count(*) from entitlements.change_log";
    replica.send(&payload("subscriptionItem.active")).await;
    eventually("only rows of this cluster are left", async || {
        let (ours, all): (i64, i64) = sqlx::query_as(ours).fetch_one(&pool).await.unwrap();
        ours == all && ours > 0
    })
    .await;
}

#[tokio::test]
async fn the_image_runs_serve_as_nobody_and_opens_its_listeners() {
    let image = Image::read();
    check_settings(&image.container()).await;
    assert!(image.user().is_some_and(|user| user > 0), "not a number, or root: {:?}", image.user());
    let exposed: BTreeSet<_> = image.words("EXPOSE").map(|port| port.parse().unwrap()).collect();
    assert_eq!(exposed, image.ports().into_values().collect());
    for command in [image.list("CMD"), image.list("HEALTHCHECK").split_off(1)] {
        settings(&command[0]).await;
    }
    let entrypoint = image.list("ENTRYPOINT");
    assert_eq!(entrypoint[0], image.list("HEALTHCHECK")[0]);
}

#[test]
fn the_image_is_built_from_all_that_the_binary_is_made_of() {
    let ignore = file(".dockerignore");
    let sent: Vec<_> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let manifest: toml::Value = toml::from_str(&file("Cargo.toml")).unwrap();
    let mut needed = vec!["Cargo.toml".into(), "Cargo.lock".into(), "build.rs".into()];
    needed.extend([".sqlx", ".cargo", "crates", "src", "proto", "migrations"].map(String::from));
    if manifest.get("bench").is_some() {
        needed.push("benches".into());
    }
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.ends_with("tests.rs")
                || path.components().any(|part| part.as_os_str() == "tests")
            {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let included = text.split("include_str!(\"../../").skip(1);
            needed.extend(included.filter_map(|rest| Some(rest.split(['/', '"']).next()?.into())));
        }
    }
    for name in needed {
        assert!(sent.contains(&&*name), ".dockerignore leaves out {name}");
    }
}

#[tokio::test]
async fn compose_starts_the_service_beside_its_database() {
    let image = Image::read();
    let compose = the(documents(&file("compose.yaml")));
    let services = compose["services"].as_object().unwrap();
    for name in ["migrate", "entitlements"] {
        let service = &services[name];
        assert_eq!(service["build"], ".", "{name}");
        check_settings(&Container::of_compose(service, &image)).await;
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(service["cap_drop"][0], "ALL", "{name}");
    }

    let service = &services["entitlements"];
    let container = Container::of_compose(service, &image);
    let database: PgConnectOptions = container.variables["DATABASE_URL"].parse().unwrap();
    let postgres = services["postgres"]["environment"].as_object().unwrap();
    let text = |value: &Value| interpolate(value.as_str().unwrap());
    assert!(services.contains_key(database.get_host()));
    assert_eq!(database.get_database(), Some(&*text(&postgres["POSTGRES_DB"])));
    assert_eq!(database.get_username(), text(&postgres["POSTGRES_USER"]));
    let password = text(&postgres["POSTGRES_PASSWORD"]);
    assert!(container.variables["DATABASE_URL"].contains(&format!(":{password}@")));

    let listeners: BTreeSet<_> = image.ports().into_values().collect();
    for port in service["ports"].as_array().unwrap() {
        let port = port.as_str().unwrap();
        assert!(port.starts_with("127.0.0.1:"), "{port} is open to other machines");
        assert!(listeners.contains(&port.rsplit(':').next().unwrap().parse().unwrap()), "{port}");
    }
    let mounted = service["volumes"].as_array().unwrap().iter().map(|volume| {
        let volume = volume.as_str().unwrap().strip_suffix(":ro").expect("nothing is written");
        volume.split_once(':').unwrap()
    });
    let sources: BTreeMap<_, _> = mounted.map(|(from, to)| (to, from)).collect();
    for (path, name) in container.files() {
        let folder = path.rsplit_once('/').unwrap().0;
        // A file that is replaced at run time must be mounted by its folder: a mounted file keeps its old content.
        let is_replaced = name == "ENTITLEMENTS_CALLERS";
        let is_mounted = sources.contains_key(if is_replaced { folder } else { path });
        assert!(is_mounted, "{name} names {path}: not mounted");
    }
    let catalog = &*container.variables["ENTITLEMENTS_CATALOG"];
    let files = BTreeMap::from([(catalog.to_owned(), file(sources[catalog]))]);
    let process = start(&container, &image, &files).await;
    assert!(process.terminate().await);
}

#[tokio::test]
async fn the_chart_starts_the_service_as_it_is() {
    let catalog = concat!(env!("CARGO_MANIFEST_DIR"), "/catalog.example.toml");
    let everything = [
        "image.repository=registry.example.org/entitlements",
        "access.callersSecret=callers,access.tlsSecret=tls,access.clientCertificates=true",
        "access.operatorTls=true",
        "ingress.enabled=true,ingress.host=billing.example.org,ingress.tlsSecret=web",
        "autoscaling.enabled=true,networkPolicy.enabled=true,serviceMonitor.enabled=true",
        "migrate.grantTo={clerk,support}",
    ];
    let Some(chart) = chart(&everything, Some(catalog)) else { return };
    let (image, deployment) = (Image::read(), chart.one("Deployment"));
    let pod = &deployment["spec"]["template"];
    let container = Container::of_pod(&pod["spec"], &image);
    check_settings(&container).await;
    check_settings(&Container::of_pod(&chart.one("Job")["spec"]["template"]["spec"], &image)).await;
    let arguments = &chart.one("Job")["spec"]["template"]["spec"]["containers"][0]["args"];
    assert_eq!(*arguments, json!(["migrate", "--grant-to=clerk", "--grant-to=support"]));
    for pod in [&pod["spec"], &chart.one("Job")["spec"]["template"]["spec"]] {
        assert_eq!(pod["securityContext"]["runAsUser"], image.user().unwrap(), "{pod}");
        assert_eq!(
            pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"], true,
            "{pod}"
        );
    }

    let ports = ports(&pod["spec"]);
    assert_eq!(ports, image.ports());
    let labels = &pod["metadata"]["labels"];
    for service in chart.all("Service") {
        assert!(selects(&service["spec"]["selector"], labels), "{service}");
        for port in service["spec"]["ports"].as_array().unwrap() {
            assert!(ports.contains_key(port["targetPort"].as_str().unwrap()), "{port}");
        }
    }
    for kind in ["Deployment", "PodDisruptionBudget"] {
        assert!(selects(&chart.one(kind)["spec"]["selector"]["matchLabels"], labels), "{kind}");
    }
    let job = &chart.one("Job")["spec"]["template"]["metadata"]["labels"];
    assert!(!selects(&deployment["spec"]["selector"]["matchLabels"], job), "the job is a replica");

    let span = |name| *container.variables[name].parse::<humantime::Duration>().unwrap();
    let grace_period = pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(
        (span("ENTITLEMENTS_STOP_DELAY") + span("ENTITLEMENTS_STOP_WITHIN")).as_secs()
            < grace_period,
        "killed while draining"
    );

    let content = chart.one("ConfigMap")["data"]["catalog.toml"].as_str().unwrap().to_owned();
    assert_eq!(content.trim_end(), file("catalog.example.toml").trim_end());
    let files = BTreeMap::from([("/etc/entitlements/catalog/catalog.toml".to_owned(), content)]);
    for (path, name) in container.files() {
        let folder = path.rsplit_once('/').unwrap().0;
        assert!(mounts(&pod["spec"], folder), "{name} names {path}: not mounted");
    }
    let process = start(&container, &image, &files).await;
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let probe = &pod["spec"]["containers"][0][probe]["httpGet"];
        assert_eq!(probe["port"], "operator", "{probe}");
        assert_eq!(
            status(&process.internal, probe["path"].as_str().unwrap()).await,
            200,
            "{probe}"
        );
    }
    let scraped = &chart.one("ServiceMonitor")["spec"]["endpoints"][0];
    assert_eq!(status(&process.internal, scraped["path"].as_str().unwrap()).await, 200);
    let ingress = &chart.one("Ingress")["spec"]["rules"][0]["http"]["paths"];
    assert_eq!(
        (ingress[0]["path"].as_str(), ingress.as_array().unwrap().len()),
        (Some(WEBHOOKS), 1)
    );
    assert_eq!(status(&process.http, WEBHOOKS).await, 405, "there, and not for GET");
    assert!(process.terminate().await);
}

/// Whether a selector matches a pod with these labels.
fn selects(selector: &Value, labels: &Value) -> bool {
    selector.as_object().unwrap().iter().all(|(name, value)| labels[name] == *value)
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
    ] {
        let Some(chart) = chart(&values, None) else { return };
        assert!(chart.refusal.contains(words), "{values:?}: {}", chart.refusal);
    }
}

#[test]
fn a_new_catalog_makes_new_pods_of_the_chart() {
    let values = ["image.repository=x,access.insecure=true"];
    let Some(without) = chart(&values, None) else { return };
    let with = chart(&values, Some(concat!(env!("CARGO_MANIFEST_DIR"), "/catalog.example.toml")));
    let pod = |deployment: &Value| deployment["spec"]["template"]["metadata"].clone();
    assert_ne!(pod(without.one("Deployment")), pod(with.unwrap().one("Deployment")));
    assert!(without.all("ConfigMap").is_empty());
}

#[test]
fn the_workflow_runs_the_ci_script_with_few_rights_and_pinned_actions() {
    let workflow = the(documents(&file(".github/workflows/ci.yml")));
    assert_eq!(workflow["permissions"], json!({ "contents": "read" }));
    let jobs = workflow["jobs"].as_object().unwrap();
    let steps: Vec<_> = jobs.values().flat_map(|job| job["steps"].as_array().unwrap()).collect();
    let run = |step: &&&Value| step["run"].as_str().is_some_and(|run| run.contains(".ci/run"));
    assert_eq!(steps.iter().filter(run).count(), 1);
    for action in steps.iter().filter_map(|step| step["uses"].as_str()) {
        let pin = action.split_once('@').map(|(_, pin)| pin).unwrap_or_default();
        let is_hash = pin.len() == 40 && pin.chars().all(|c| c.is_ascii_hexdigit());
        assert!(is_hash, "{action} is not pinned by the hash of a commit");
    }
    assert!(!file("compose.yaml").contains(SECRET));
}
