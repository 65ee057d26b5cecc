//! compose.yaml: one command starts the service from a fresh clone. The tests run the commands of its services, with the
//! variables that it sets, in the order in which Compose starts them.

use crate::{
    support::database::Db,
    support::manifests::{Container, Image, documents, file, interpolate, the},
    support::service::{SECRET, eventually},
};
use serde_json::{Map, Value, json};
use sqlx::postgres::PgConnectOptions;
use std::{collections::BTreeSet, path::Path};

/// The services that run to their end, in the order in which Compose may start them.
const STEPS: [&str; 3] = ["setup", "migrate", "catalog"];
/// The folder of the volume that `setup` fills.
const FOLDER: &str = "/config";

fn services() -> Map<String, Value> {
    let compose = the(documents(&file("compose.yaml")));
    compose["services"].as_object().unwrap().clone()
}

#[tokio::test]
async fn one_command_starts_a_service_that_takes_webhooks_and_answers_checks() {
    let (db, folder, image) = (Db::absent(), tempfile::tempdir().unwrap(), Image::read());
    db.create_empty().await;
    let services = services();
    let container = |name: &str| {
        Container::of_compose(&services[name], &image).at(FOLDER, folder.path(), &db.url)
    };
    for start in ["the first start", "another start"] {
        for step in STEPS {
            let (code, output) = container(step).run();
            assert_eq!(code, 0, "{start}: {step}: {output}");
        }
    }
    let service = container("entitlements");
    for (path, name) in service.files() {
        assert!(Path::new(path).is_file(), "{name} names {path}, which `init` does not create");
    }
    let process = service.serve(&image, &db.url, &[]).await;

    let event = "tests/payloads/subscriptionItem.active.json";
    let event = Path::new(env!("CARGO_MANIFEST_DIR")).join(event).display().to_string();
    let (code, output) =
        service.exec(&["send", &event, "--url", &format!("{}/webhooks/clerk", process.http)]);
    assert_eq!(code, 0, "{output}");
    let user = "user_3jKRaOPcHB95IyjLKz2dmcVGvBR";
    let check = ["check", "export", "--user", user, "--addr", &process.grpc];
    eventually("the check is allowed", async || service.exec(&check).0 == 0).await;
    let (_, output) = service.exec(&check);
    assert!(!output.contains("is not a setting"), "{output}");
    assert!(!process.log().contains("unknown environment variable"), "{}", process.log());
    assert!(process.terminate().await);
}

#[tokio::test]
async fn each_variable_of_compose_is_a_setting() {
    let (services, image) = (services(), Image::read());
    for step in STEPS {
        Container::of_compose(&services[step], &image).check_settings(&[]).await;
    }
    let service = Container::of_compose(&services["entitlements"], &image);
    // The variables are also those of the commands that `docker compose exec` runs.
    service.check_settings(&["check", "send"]).await;
    let files = ["ENTITLEMENTS_CATALOG", "ENTITLEMENTS_CALLERS", "ENTITLEMENTS_KEY_FILE"];
    for name in files.into_iter().chain(["CLERK_WEBHOOK_SIGNING_SECRET_FILE"]) {
        assert!(Path::new(&service.variables[name]).starts_with(FOLDER), "{name}");
    }
    let given = &services["entitlements"]["environment"]["CLERK_WEBHOOK_SIGNING_SECRET"];
    assert_eq!(given, "${CLERK_WEBHOOK_SIGNING_SECRET:-}", "unset, it must be empty");
    assert!(!file("compose.yaml").contains(SECRET));
}

#[test]
fn each_service_of_compose_waits_for_what_it_needs() {
    let services = services();
    let completed = json!({ "condition": "service_completed_successfully" });
    assert_eq!(
        services["migrate"]["depends_on"],
        json!({ "postgres": { "condition": "service_healthy" } })
    );
    assert!(services["postgres"]["healthcheck"]["test"].is_array());
    assert_eq!(
        services["catalog"]["depends_on"],
        json!({ "setup": completed, "migrate": completed })
    );
    assert_eq!(services["entitlements"]["depends_on"], json!({ "catalog": completed }));
    for step in STEPS {
        // `up --wait` reports a service that ends as a failure, unless another service waits for its end.
        let is_awaited = services.values().any(|other| other["depends_on"][step] == completed);
        assert!(is_awaited, "{step}");
        assert_eq!(services[step]["healthcheck"], json!({ "disable": true }), "{step}");
        assert!(services[step]["restart"].is_null(), "{step} would run again and again");
    }
}

#[test]
fn compose_mounts_only_its_own_volumes_and_only_the_setup_writes_to_the_files() {
    let compose = the(documents(&file("compose.yaml")));
    let volumes = compose["volumes"].as_object().unwrap();
    for (name, service) in compose["services"].as_object().unwrap() {
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let volume = volume.as_str().unwrap();
            let parts: Vec<_> = volume.split(':').collect();
            // A file of the machine that does not exist would be mounted as an empty folder.
            assert!(volumes.contains_key(parts[0]), "{name}: {volume}");
            if parts[0] == "config" {
                let is_writable = parts.get(2) != Some(&"ro");
                assert_eq!((parts[1], is_writable), (FOLDER, name == "setup"), "{name}: {volume}");
            }
        }
    }
}

#[test]
fn compose_builds_the_image_once_and_runs_it_with_few_rights() {
    let services = services();
    for name in STEPS.into_iter().chain(["entitlements"]) {
        let service = &services[name];
        assert_eq!(service["image"], "entitlements", "{name}");
        assert_eq!(service["build"].as_str(), (name == "setup").then_some("."), "{name}");
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(service["cap_drop"], json!(["ALL"]), "{name}");
        assert_eq!(service["security_opt"], json!(["no-new-privileges:true"]), "{name}");
    }
}

#[test]
fn compose_opens_the_ports_of_the_image_to_this_machine_only() {
    let services = services();
    let ports = services["entitlements"]["ports"].as_array().unwrap().iter();
    let open: BTreeSet<_> = ports.map(|port| port.as_str().unwrap().to_owned()).collect();
    let listeners = Image::read().ports().into_values();
    assert_eq!(open, listeners.map(|port| format!("127.0.0.1:{port}:{port}")).collect());
    assert!(services["postgres"]["ports"].is_null());
}

#[test]
fn compose_connects_the_service_with_the_database_that_it_starts() {
    let (services, image) = (services(), Image::read());
    let postgres = services["postgres"]["environment"].as_object().unwrap();
    let text = |name: &str| interpolate(postgres[name].as_str().unwrap());
    for name in ["migrate", "catalog", "entitlements"] {
        let container = Container::of_compose(&services[name], &image);
        let url = &container.variables["DATABASE_URL"];
        let database: PgConnectOptions = url.parse().unwrap();
        assert_eq!(database.get_host(), "postgres", "{name}");
        assert_eq!(database.get_database(), Some(&*text("POSTGRES_DB")), "{name}");
        assert_eq!(database.get_username(), text("POSTGRES_USER"), "{name}");
        assert!(url.contains(&format!(":{}@", text("POSTGRES_PASSWORD"))), "{name}");
    }
}
