//! The output of every command: as text in two widths, with and without colours, and as JSON by its schema.
//!
//! `UPDATE_DOCS=1` writes the pages in `outputs/` anew. Times are fixed, so that all pages are always equal.

use crate::support::{
    database::Db,
    fake_clerk::{Clerk, KEY},
    overrides::{CATALOG, client, denied, limited, replica},
    service::{ADA, Replica, payload},
    shell::Shell,
};
use entitlements::api::pb::{SetOverrideRequest, grant::Number};
use serde_json::Value;
use std::{env, fmt::Write, fs, path::Path};

/// The ids of the overrides on the pages.
const IDS: [&str; 2] =
    ["0197f4c1-0000-7000-8000-000000000001", "0197f4c1-0000-7000-8000-000000000002"];

/// Each command, with the definition of its JSON in `docs/commands.schema.json`.
#[rustfmt::skip]
const COMMANDS: [(&str, &str); 36] = [
    ("check export --user USER", "decision"),
    ("check sso --user USER", "decision"),
    ("check --plan max --user USER", "decision"),
    ("check export --user user_nobody", "decision"),
    ("list --user USER --org org_acme", "entitlements"),
    ("explain projects --user USER --as-of 2026-11-10", "explanation"),
    ("explain sso --user USER --as-of 2026-11-10", "explanation"),
    ("history USER", "change"),
    ("subjects --feature reports", "decision"),
    ("subjects --feature sso", "decision"),
    ("override list", "override"),
    ("override grant sso --user USER --until 2030-01-01 --owner ada --reason pilot --dry-run", "overrideSet"),
    ("override end OVERRIDE --reason over --dry-run", "overrideSet"),
    ("override export", "overrideRow"),
    ("override import export.jsonl", "overrideImport"),
    ("deliveries list", "delivery"),
    ("deliveries list --result parked", "delivery"),
    ("deliveries show msg_1", "deliveryWithBody"),
    ("deliveries replay --dry-run", "replay"),
    ("catalog plan next.toml", "catalogPlan"),
    ("catalog plan next.toml --subjects", "catalogPlan"),
    ("catalog apply next.toml", "catalogPlan"),
    ("catalog history", "catalogVersion"),
    ("catalog show", "catalogVersion"),
    ("catalog diff 1", "catalogDiff"),
    ("catalog import billing.json", "catalogImport"),
    ("catalog types --language ts", "catalogTypes"),
    ("catalog types --language ts --check keys.ts", "catalogTypes"),
    ("catalog preview USER max --count projects=200", "preview"),
    ("keys list --callers callers.toml", "key"),
    ("migrate", "migrate"),
    ("ready --operator-listen 127.0.0.1:1", "ready"),
    ("doctor --database-url postgres://me@127.0.0.1:1/none --api-listen 127.0.0.1:0 --webhook-listen 127.0.0.1:0 --operator-listen 127.0.0.1:0", "finding"),
    ("reconcile USER --dry-run", "reconcile"),
    ("send wrong.json --secret whsec_d3JvbmctYnV0LWxvbmctZW5vdWdo", "send"),
    ("init config", "init"),
];

/// Commands whose text differs from run to run.
#[rustfmt::skip]
const ONLY_JSON: [(&str, &str); 4] = [
    ("keys create another --scope check --callers callers.toml", "keyCreated"),
    ("keys revoke another --callers callers.toml", "keyRevoked"),
    ("catalog pull", "catalogPlan"),
    ("override deny export --user USER --for 1h --owner ada --reason pilot", "overrideSet"),
];

/// A database with fixed times, a replica, and a folder of files.
struct Scene {
    replica: Replica,
    shell: Shell,
    /// The ids of the overrides.
    ids: Vec<String>,
    _clerk: Clerk,
    _db: Db,
}

impl Scene {
    async fn new(more: &[(&'static str, &str)]) -> Self {
        let (db, clerk) = (Db::new().await, Clerk::start().await);
        let replica = replica(&db).await;
        replica.send_as("msg_1", &payload("subscriptionItem.active")).await;
        replica.send_as("msg_2", &payload("subscription.active.org-team")).await;
        let limit = limited(ADA, "projects", Number::AtLeast(40));
        let mut ids = Vec::new();
        for found in [limit, denied(ADA, "reports")] {
            let request = SetOverrideRequest { r#override: Some(found), ..Default::default() };
            let set = client(&replica).set_override(request).await.unwrap().into_inner();
            ids.push(set.r#override.unwrap().id);
        }
        fix_times(&db).await;
        let addresses = [
            ("ENTITLEMENTS_ADDR", format!("http://{}", replica.bound.api)),
            (
                "ENTITLEMENTS_WEBHOOK_URL",
                format!("http://{}/webhooks/clerk", replica.bound.webhook),
            ),
        ];
        let addresses = addresses.each_ref().map(|(name, value)| (*name, value.as_str()));
        let fixed =
            [("DATABASE_URL", &*db.url), ("CLERK_SECRET_KEY", KEY), ("CLERK_API_URL", &clerk.url)];
        let shell = Shell::new(&[&addresses[..], &fixed, more].concat());
        shell.write("next.toml", &CATALOG.replacen("\"export\"]", "\"charts\"]", 1));
        shell.write("callers.toml", CALLERS);
        shell.write("wrong.json", "{}");
        shell.write("billing.json", BILLING);
        shell.write("keys.ts", "export type Feature =\n  | \"expotr\";\n");
        shell.write("export.jsonl", "");
        Self { replica, shell, ids, _clerk: clerk, _db: db }
    }

    async fn run(&self, command: &str, flags: &[&str]) -> String {
        let words = command.split(' ').map(|word| match word {
            "USER" => ADA,
            "OVERRIDE" => &self.ids[0],
            word => word,
        });
        let arguments: Vec<_> = flags.iter().copied().chain(words).collect();
        let (_, stdout, stderr) = self.shell.run(&arguments).await;
        stdout + &stderr
    }
}

const CALLERS: &str = r#"
    [keys.backend]
    sha256 = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
    scopes = ["check", "support"]
    created = 2026-11-03
"#;

const BILLING: &str = r#"
    {"billing":{"plans":{"free_user":{"payer_type":"user","features":["reports"]},"pro":{"payer_type":"user"}}}}
"#;

/// Sets every time that the database chose to a fixed one.
async fn fix_times(db: &Db) {
    let db = db.pool().await;
    for statement in [
        "update entitlements.delivery set received_at = '2026-11-03T14:03:00.25Z'",
        "update entitlements.observation set known_at = '2026-11-03T14:03:00.25Z'",
        "update entitlements.catalog_version set applied_at = '2026-11-02T09:00:00Z'",
        "update entitlements.override set set_at = '2026-11-04T10:00:00Z' where ended_at is null",
        "update entitlements.history_retention set complete_from = '2026-11-01'",
    ] {
        sqlx::query(statement).execute(&db).await.unwrap();
    }
}

/// All outputs as one page. What differs from run to run is replaced by a text of the same length.
async fn page(more: &[(&'static str, &str)], flags: &[&str]) -> String {
    let scene = Scene::new(more).await;
    let mut page = String::new();
    for (command, _) in COMMANDS {
        let output = scene.run(command, flags).await;
        let ids = scene.ids.iter().zip(IDS);
        let output = ids.fold(output, |output, (id, fixed)| output.replace(id, fixed));
        writeln!(page, "$ entitlements {command}\n{output}").unwrap();
    }
    scene.replica.stop().await.unwrap();
    page
}

async fn check_page(name: &str, more: &[(&'static str, &str)], flags: &[&str]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/operations/outputs").join(name);
    let page = page(more, flags).await;
    if let Some((_, width)) = more.iter().find(|(name, _)| *name == "COLUMNS") {
        check_widths(&page, width.parse().unwrap());
    }
    if env::var("UPDATE_DOCS").as_deref() == Ok("1") {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &page).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let differing = kept.lines().zip(page.lines()).find(|(kept, new)| kept != new);
    assert!(kept == page, "{name}: {differing:#?}; UPDATE_DOCS=1 writes it anew");
}

/// Checks that no line is wider, unless one word is. Commands, JSON and bodies are printed as they are.
fn check_widths(page: &str, width: usize) {
    let is_raw =
        |line: &str| line.starts_with("$ ") || line.contains("\": ") || line.starts_with('{');
    for line in page.lines().filter(|line| !is_raw(line)) {
        let shown = anstream::adapter::strip_str(line).to_string();
        let longest = shown.split_whitespace().map(|word| word.chars().count()).max();
        let indent = shown.chars().take_while(|c| *c == ' ').count();
        let most = width.max(indent + longest.unwrap_or_default());
        assert!(shown.chars().count() <= most, "more than {width} columns: {shown}");
    }
}

#[tokio::test]
async fn each_output_fits_80_columns_without_a_broken_word() {
    check_page("80-columns.txt", &[("COLUMNS", "80")], &[]).await;
}

#[tokio::test]
async fn each_output_fits_120_columns_without_a_broken_word() {
    check_page("120-columns.txt", &[("COLUMNS", "120")], &[]).await;
}

#[tokio::test]
async fn colours_are_printed_on_request_and_never_with_no_color() {
    check_page("120-columns-in-colour.txt", &[("COLUMNS", "120")], &["--color", "always"]).await;
    let scene = Scene::new(&[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "0")]).await;
    let output = scene.run("check sso --user USER", &[]).await;
    assert!(!output.contains('\u{1b}'), "{output}");
}

#[tokio::test]
async fn each_command_prints_json_by_its_schema() {
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/commands.schema.json");
    let schema: Value = serde_json::from_str(&fs::read_to_string(schema).unwrap()).unwrap();
    let (scene, mut lines) = (Scene::new(&[]).await, 0);
    for (command, definition) in COMMANDS.into_iter().chain(ONLY_JSON) {
        let mut one = schema.clone();
        one["$ref"] = format!("#/$defs/{definition}").into();
        let validator = jsonschema::validator_for(&one).unwrap();
        let output = scene.run(command, &["--json"]).await;
        for line in output.lines().filter(|line| line.starts_with('{')) {
            let json: Value =
                serde_json::from_str(line).unwrap_or_else(|e| panic!("{command}: {e}: {line}"));
            let errors: Vec<_> = validator.iter_errors(&json).map(|e| e.to_string()).collect();
            lines += 1;
            assert!(errors.is_empty(), "{command}: {errors:?} in {line}");
        }
    }
    assert!(lines > COMMANDS.len(), "{lines} lines of JSON");
}
