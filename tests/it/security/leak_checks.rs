//! Secrets and personal data are sent through all interfaces, and must appear only in the bodies of deliveries.

use crate::{
    support::database::Db,
    support::process::Process,
    support::service::{ADA, JOAN, SECRET, eventually, payload, plain_http, secret},
    support::shell::Shell,
};
use chrono::Utc;
use entitlements::api::pb::{
    CheckFeatureRequest, Consistency, DeliveryFilter, GetDeliveryRequest, ListDeliveriesRequest,
    admin_client::AdminClient, consistency::Requirement, entitlements_client::EntitlementsClient,
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tonic::{Request, Status, transport::Endpoint};

const NAME: &str = "Canaria";
const ADDRESS: &str = "canary@people.example";
const PASSWORD: &str = "canary-password";
const KEY: &str = "sk_live_canary";
const TOKEN: &str = "canary-token";
const WRONG_SECRET: &str = "whsec_Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5";

/// All outputs, each with its source.
#[derive(Default)]
struct Outputs(Vec<(String, String)>);

impl Outputs {
    fn add(&mut self, by: &str, text: impl Into<String>) {
        self.0.push((by.into(), text.into()));
    }

    fn status(&mut self, by: &str, status: Result<(), Status>) {
        let status = status.expect_err(by);
        let details = String::from_utf8_lossy(status.details()).into_owned();
        self.add(by, format!("{status:?} {details}"));
    }

    fn check(&self) {
        let secrets = [SECRET, WRONG_SECRET].map(|secret| &secret["whsec_".len()..]);
        for (by, text) in &self.0 {
            for leak in [NAME, ADDRESS, PASSWORD, KEY, TOKEN].iter().chain(&secrets) {
                if let Some(at) = text.to_lowercase().find(&leak.to_lowercase()) {
                    let around = &text[at.saturating_sub(300)..(at + 100).min(text.len())];
                    panic!("{leak} is in what {by} says: …{around}…");
                }
            }
        }
    }
}

/// A payload with other values at some places.
fn with(name: &str, changes: &[(&str, Value)]) -> String {
    let mut body: Value = serde_json::from_str(&payload(name)).unwrap();
    for (place, value) in changes {
        if let Some(found) = body.pointer_mut(place) {
            *found = value.clone();
        } else {
            let (folder, key) = place.rsplit_once('/').unwrap();
            body.pointer_mut(folder).unwrap()[key] = value.clone();
        }
    }
    body.to_string()
}

/// Bodies with names and addresses, in expected and in unexpected places.
fn bodies() -> Vec<String> {
    let item = "subscriptionItem.active";
    let people = [
        ("/data/payer/first_name", json!(NAME)),
        ("/data/payer/last_name", json!(NAME)),
        ("/data/payer/email", json!(ADDRESS)),
        ("/data/payer/organization_name", json!(NAME)),
        ("/data/payer/image_url", json!(format!("https://img.example/{NAME}"))),
        ("/data/extra", json!({ ADDRESS: [NAME, { "email": ADDRESS }] })),
    ];
    let mut bodies = vec![
        with(item, &people),
        with("subscription.active.user-pro", &people),
        with("paymentAttempt.created.checkout", &people),
        with(
            "organizationMembership.created",
            &[("/data/public_user_data/identifier", json!(ADDRESS))],
        ),
        with("user.deleted", &[("/data/email", json!(ADDRESS)), ("/data/id", json!(JOAN))]),
        // Bodies that are parked, each with a reason.
        format!("{{\"type\":\"{ADDRESS}\",\"data\":{{}}}}"),
        format!("{{\"type\":\"subscription.updated\",\"data\":\"{ADDRESS}\"}}"),
        format!("\"{ADDRESS} {NAME}\""),
        format!("{ADDRESS} {NAME}"),
        format!("{{\"type\":\"subscription.updated\",\"{NAME}\":\"{ADDRESS}"),
        format!("[\"{ADDRESS}\",\"{NAME}\"]"),
    ];
    for place in [
        "/type",
        "/timestamp",
        "/instance_id",
        "/data",
        "/data/id",
        "/data/status",
        "/data/payer",
        "/data/payer/user_id",
        "/data/payer/organization_id",
        "/data/plan",
        "/data/plan_id",
        "/data/is_free_trial",
        "/data/period_start",
        "/data/canceled_at",
        "/data/updated_at",
        "/data/seats",
        "/data/items",
        "/data/object",
    ] {
        bodies.push(with(item, &[(place, json!(format!("{ADDRESS}, expected {NAME}")))]));
    }
    for place in ["/data/payer/user_id", "/data/status", "/data/updated_at", "/data/seats"] {
        bodies.push(with(item, &[(place, json!({ ADDRESS: NAME }))]));
        bodies.push(with(item, &[(place, json!([ADDRESS, NAME]))]));
    }
    bodies
}

/// Posts to a service, signed and unsigned, with secrets in unrelated headers.
async fn deliver(to: &str, outputs: &mut Outputs) {
    let http = plain_http();
    let wrong = entitlements::clerk::SigningSecret::parse(&WRONG_SECRET.to_owned().into()).unwrap();
    for (number, body) in bodies().into_iter().enumerate() {
        for signer in [&secret(), &wrong] {
            let (id, now) = (format!("msg_{number}"), Utc::now().timestamp());
            let post = http
                .post(format!("{to}/webhooks/clerk"))
                .header("svix-id", &id)
                .header("svix-timestamp", now)
                .header("svix-signature", signer.sign(&id, now, &body))
                .header("authorization", format!("Bearer {TOKEN}"))
                .header("cookie", format!("email={ADDRESS}"))
                .body(body.clone());
            let answer = post.send().await.unwrap().text().await.unwrap();
            outputs.add(&format!("the answer to {body}"), answer);
        }
    }
    for (name, value) in [("svix-id", ADDRESS), ("svix-timestamp", NAME), ("svix-signature", TOKEN)]
    {
        let post = http.post(format!("{to}/webhooks/clerk")).header(name, value).body(ADDRESS);
        outputs.add(name, post.send().await.unwrap().text().await.unwrap());
    }
    for path in [format!("{ADDRESS}?token={TOKEN}"), format!("webhooks/clerk?email={ADDRESS}")] {
        let get = http.get(format!("{to}/{path}")).header("x-name", NAME);
        outputs.add(&path, get.send().await.unwrap().text().await.unwrap());
    }
}

/// Makes invalid calls with a token.
async fn ask(to: &str, outputs: &mut Outputs) {
    fn bearing<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
        metadata.insert("x-email", ADDRESS.parse().unwrap());
        request
    }
    let channel = Endpoint::from_shared(to.to_owned()).unwrap().connect_lazy();
    let mut client = EntitlementsClient::new(channel.clone());
    let requirement = Some(Requirement::AtLeast(ADDRESS.into()));
    let questions = [
        CheckFeatureRequest { user_id: ADDRESS.into(), ..Default::default() },
        CheckFeatureRequest {
            user_id: ADA.into(),
            feature: format!("{NAME}\n"),
            ..Default::default()
        },
        CheckFeatureRequest {
            organization_id: NAME.into(),
            feature: ADDRESS.repeat(20),
            consistency: Some(Consistency { requirement }),
            ..Default::default()
        },
    ];
    for question in questions {
        outputs.status("CheckFeature", client.check_feature(bearing(question)).await.map(drop));
    }
    let mut admin = AdminClient::new(channel);
    let filter =
        DeliveryFilter { subject: ADDRESS.into(), result: NAME.into(), ..Default::default() };
    let list =
        ListDeliveriesRequest { filter: Some(filter), page_token: ADDRESS.into(), page_size: 0 };
    outputs.status("ListDeliveries", admin.list_deliveries(bearing(list)).await.map(drop));
    let one = GetDeliveryRequest { svix_id: ADDRESS.into() };
    outputs.status("GetDelivery", admin.get_delivery(bearing(one)).await.map(drop));
}

/// A fake Clerk that answers each request with another fault that contains an address.
async fn failing_clerk() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let error = json!({ "errors": [{ "code": ADDRESS, "message": format!("no {ADDRESS}") }] });
        let listing = json!({ "data": ADDRESS, "total_count": NAME });
        let answers =
            [("200 OK", &listing), ("200 OK", &listing), ("422 No", &error), ("401 No", &error)];
        for (status, body) in answers.iter().cycle() {
            let (mut peer, _) = listener.accept().await.unwrap();
            let _ = peer.read(&mut [0; 4096]).await;
            let (body, head) = (body.to_string(), "connection: close\r\ncontent-length");
            let answer = format!("HTTP/1.1 {status}\r\n{head}: {}\r\n\r\n{body}", body.len());
            let _ = peer.write_all(answer.as_bytes()).await;
        }
    });
    address
}

/// All tables as text, without the bodies of deliveries.
async fn tables(pool: &PgPool) -> String {
    let names = "select tablename::text from pg_tables where schemaname = 'entitlements'";
    let names: Vec<String> = sqlx::query_scalar(names).fetch_all(pool).await.unwrap();
    assert!(names.iter().any(|name| name == "delivery"), "{names:?}");
    let mut all = String::new();
    for name in names {
        let rows = format!("select (to_jsonb(t) - 'body')::text from entitlements.{name} t");
        let rows: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(rows)).fetch_all(pool).await.unwrap();
        all.extend([name, rows.join("\n")]);
    }
    all
}

/// The database URL with a password.
fn with_password(url: &str) -> String {
    url.replace("entitlements@", &format!("entitlements:{PASSWORD}@"))
}

#[tokio::test]
async fn secrets_and_people_are_in_no_log_answer_metric_or_table() {
    let db = Db::new().await;
    let (mut outputs, clerk) = (Outputs::default(), failing_clerk().await);
    let url = with_password(&db.url);
    assert!(url.contains(PASSWORD), "{url}");
    let clerk = format!("http://{clerk}/v1");
    let variables = [
        ("ENTITLEMENTS_LOG", "trace"),
        ("ENTITLEMENTS_ADMIN", "true"),
        ("CLERK_SECRET_KEY", KEY),
        ("CLERK_API_URL", &clerk),
        ("CLERK_WEBHOOK_SIGNING_SECRET", SECRET),
    ];
    let process = Process::start(&url, &variables).await;
    deliver(&process.http, &mut outputs).await;
    ask(&process.grpc, &mut outputs).await;
    outputs.add("/metrics", process.metrics().await);
    eventually("Clerk's answers are logged", async || process.log().contains("Clerk")).await;
    let log = process.log();
    assert!(log.contains("parked") && log.contains("refused a webhook"), "{log}");
    outputs.add("the log", log);
    let tables = tables(&db.pool().await).await;
    assert!(tables.contains(ADA) && tables.contains("parked"), "{tables}");
    outputs.add("the tables", tables);
    let addr = [("ENTITLEMENTS_ADDR", &*process.grpc), ("ENTITLEMENTS_KEY", TOKEN)];
    run(&addr, &["deliveries", "list"], "parked", &mut outputs).await;
    run(&addr, &["deliveries", "replay", "--dry-run"], "parked", &mut outputs).await;
    outputs.check();
    let bodies =
        "select count(*) from entitlements.delivery where convert_from(body, 'utf8') like $1";
    let bodies: i64 = sqlx::query_scalar(bodies)
        .bind(format!("%{ADDRESS}%"))
        .fetch_one(&db.pool().await)
        .await
        .unwrap();
    assert!(bodies > 10, "the canaries did reach it");
    assert!(process.terminate().await);
}

/// Runs a command with these variables, checks for words of its output, and records the output.
async fn run(
    variables: &[(&'static str, &str)],
    arguments: &[&str],
    words: &str,
    outputs: &mut Outputs,
) {
    let (_, out, err) = Shell::new(variables).run(arguments).await;
    let text = format!("{out}{err}");
    assert!(text.contains(words), "{arguments:?}: {text}");
    outputs.add(&format!("{arguments:?}"), text);
}

#[tokio::test]
async fn failing_commands_and_the_manual_print_no_secret() {
    let (mut outputs, clerk) = (Outputs::default(), failing_clerk().await);
    let missing = with_password(&Db::absent().url);
    let refused = format!("postgres://me:{PASSWORD}@127.0.0.1:1/nothing");
    let wrong = format!("postgres://me:{PASSWORD}@localhost:port/nothing");
    let clerk = format!("http://{clerk}/v1");
    for url in [&missing, &refused, &wrong, &PASSWORD.to_string()] {
        let variables = [
            ("DATABASE_URL", &**url),
            ("CLERK_WEBHOOK_SIGNING_SECRET", SECRET),
            ("CLERK_SECRET_KEY", KEY),
            ("CLERK_API_URL", &clerk),
            ("ENTITLEMENTS_KEY", TOKEN),
            ("ENTITLEMENTS_ADDR", "http://127.0.0.1:1"),
            ("ENTITLEMENTS_LOG", "trace"),
        ];
        run(&variables, &["migrate"], "DATABASE_URL", &mut outputs).await;
        run(&variables, &["reconcile", ADA], "error: ", &mut outputs).await;
        run(&variables, &["catalog", "history"], "error: ", &mut outputs).await;
    }
    let variables = [
        ("DATABASE_URL", &*refused),
        ("CLERK_WEBHOOK_SIGNING_SECRET", SECRET),
        ("CLERK_SECRET_KEY", KEY),
        ("ENTITLEMENTS_KEY", TOKEN),
        ("ENTITLEMENTS_ADDR", "http://127.0.0.1:1"),
    ];
    run(&variables, &["check", "export", "--user", ADA], "cannot reach", &mut outputs).await;
    for command in
        ["serve", "dev", "migrate", "send", "check", "deliveries", "catalog", "reconcile"]
    {
        run(&variables, &[command, "--help"], "Usage", &mut outputs).await;
    }
    let refused = [("DATABASE_URL", &*wrong), ("CLERK_WEBHOOK_SIGNING_SECRET", WRONG_SECRET)];
    run(&refused, &["serve"], "DATABASE_URL is not", &mut outputs).await;
    let short = [("DATABASE_URL", &*missing), ("CLERK_WEBHOOK_SIGNING_SECRET", TOKEN)];
    run(&short, &["serve"], "CLERK_WEBHOOK_SIGNING_SECRET", &mut outputs).await;
    outputs.check();
}
