//! The overhead of the service over its Postgres: a check that is not cached, and a delivery, each compared with
//! pgbench running the service's statements, prepared, on the service's server, which flushes to disk at every commit.
//! And the overhead of `has_feature` over a select of the rows that it reads, both run by pgbench.
//!
//! `cargo bench --bench database` needs pgbench (it comes with the PostgreSQL binaries; Debian: `apt-get install
//! postgresql-contrib`) and two cores: Postgres gets the first; the service with its load, and pgbench, the second. The
//! variants alternate in rounds of three seconds, and the medians of the rounds are compared. `ROUNDS=15` sets the
//! number of rounds (default 7), `SECONDS=1` their length, `SUBJECTS=10000` the number of subjects (default a million).

mod support;

use anyhow::ensure;
use std::{fmt::Write, fs, path::Path};
use support::{
    LOAD, SERVER, Server, alternate,
    database::{self, Database, question, statement},
    deliver,
    drive::{self, Plan, Subjects},
    framed, head, median, number, spread, title,
};

/// The numbers of concurrent callers, senders, and clients of pgbench.
const CROWDS: [u32; 3] = [1, 8, 32];
/// The key of the subject that pgbench picks.
const KEY: &str =
    "(select key from entitlements.subject where id = ('user_2' || lpad(:n::text, 26, '0')))";
/// The subject that pgbench picks.
const PICKED: &str = "('user_2' || lpad(:n::text, 26, '0'))";
/// The rows that `has_feature` reads about the subject `$1`.
const ROWS_OF_A_GATE: &str = "
    select s.*, i.*, listing.*, whole.*, p.*, o.*, g.*, c.*, f.*
    from entitlements.subject s
    left join entitlements.item i on i.subject = s.id
    left join entitlements.snapshot listing on listing.subject = s.id and listing.has_items
    left join entitlements.snapshot whole on whole.subject = s.id and not whole.has_items
    left join entitlements.failed_payment p on p.subject = s.id and p.item = i.id
    left join entitlements.override o on o.subject = s.id and o.ended_at is null
    left join entitlements.catalog_in_force g on true
    left join entitlements.catalog_plan c on c.kind = 'user' and c.name in (i.plan_id, i.plan)
    left join entitlements.catalog_feature f on f.feature = 'export' and f.kind = c.kind and f.plan = c.plan
    where s.id = $1;
";

fn main() -> anyhow::Result<()> {
    support::run(async || {
        let folder = tempfile::tempdir()?;
        let database = Database::start("bench").await?;
        database.pin(SERVER)?;
        cold_checks(&database, folder.path()).await?;
        deliveries(&database, folder.path()).await?;
        feature_gates(&database, folder.path())?;
        database.stop().await
    })
}

async fn cold_checks(database: &Database, folder: &Path) -> anyhow::Result<()> {
    let script = folder.join("check.sql");
    let select = statement("where id = $1\n            offset 0", &[PICKED])?;
    fs::write(&script, format!("{}{select}", pick(database)))?;
    // Without a cache, every check loads its account.
    let ours = Server::ours(LOAD, &database.url(), &["--cache-mib", "0"]).await?;
    ours.check(&question(0), "pro").await?;
    let body = framed(&question(0));
    let (at, count) = (database::place(&body)?, database.subjects);
    let plan = Plan {
        address: ours.grpc.clone(),
        key: ours.key.clone(),
        path: "/entitlements.v1.Entitlements/CheckFeature".into(),
        connections: 0,
        streams: 1,
        seconds: seconds(),
        body,
        subjects: Subjects { at, count, once: false },
        right: [0x08, 1].into(), // the response is allowed
        rate: None,
        spins: false,
    };
    title(&format!(
        "A check of one of {count} subjects that is not cached, against its select alone"
    ));
    compare(
        "callers",
        |crowd| {
            let report = drive::run(&Plan { connections: crowd as usize, ..plan.clone() })?;
            ensure!(report.refused + report.lost == 0, "{} checks failed", report.refused);
            Ok(report.rate())
        },
        |crowd| database.pgbench(LOAD, &script, crowd),
    )
}

async fn deliveries(database: &Database, folder: &Path) -> anyhow::Result<()> {
    let script = folder.join("delivery.sql");
    fs::write(&script, pick(database) + &transaction()?)?;
    let ours = Server::ours(LOAD, &database.url(), &["--log", "warn"]).await?;
    let plan = deliver::Plan {
        address: ours.http.clone(),
        senders: 0,
        subjects: database.subjects,
        seconds: seconds(),
    };
    title("A delivery that changes an item, against the statements of its transaction alone");
    compare(
        "senders",
        |crowd| deliver::run(&deliver::Plan { senders: crowd.into(), ..plan.clone() }),
        |crowd| database.pgbench(LOAD, &script, crowd),
    )
}

/// The catalog in force is that of the services of the other comparisons.
fn feature_gates(database: &Database, folder: &Path) -> anyhow::Result<()> {
    let (gate, select) = (folder.join("gate.sql"), folder.join("select.sql"));
    let call = format!("select entitlements.has_feature('export', {PICKED});\n");
    fs::write(&gate, pick(database) + &call)?;
    fs::write(&select, pick(database) + &ROWS_OF_A_GATE.replace("$1", PICKED))?;
    title("has_feature in SQL, against a select of the rows that it reads");
    compare(
        "clients",
        |crowd| database.pgbench(LOAD, &gate, crowd),
        |crowd| database.pgbench(LOAD, &select, crowd),
    )
}

#[expect(clippy::cast_precision_loss, reason = "a few seconds")]
fn seconds() -> f64 {
    number("SECONDS", 3) as f64
}

fn compare(
    crowds: &str,
    ours: impl Fn(u32) -> anyhow::Result<f64>,
    pgbench: impl Fn(u32) -> anyhow::Result<f64>,
) -> anyhow::Result<()> {
    head(&[crowds, "pgbench", "entitlements", "ratio", "spread"]);
    for crowd in CROWDS {
        let samples = alternate(2, |which| if which == 0 { pgbench(crowd) } else { ours(crowd) })?;
        let [theirs, ours] = [0, 1].map(|which| median(&samples[which], |rate: &f64| *rate));
        let (a, b) = (theirs.value, ours.value);
        println!("| {crowd} | {a:.0}/s | {b:.0}/s | {:.2} | {} |", b / a, spread(theirs, ours));
    }
    Ok(())
}

/// The pgbench commands that pick a subject and a message's id.
fn pick(database: &Database) -> String {
    format!("\\set n random(0, {})\n\\set m random(1, 9000000000000000)\n", database.subjects - 1)
}

/// The service's statements for a delivery, from the lock to the commit.
fn transaction() -> anyhow::Result<String> {
    let (now, message) = ("clock_timestamp()", "'msg_' || :m::text");
    let item = "'csub_item_1' || lpad(:n::text, 26, '0')";
    let mut hex = String::new();
    for byte in deliver::body(0)?.bytes() {
        write!(hex, "{byte:02x}")?;
    }
    let body = format!("'\\x{hex}'::bytea");
    let plan_id = "'cplan_3DsMZ5RFexp6NXeJrQvq6XZWlDA'";
    let (event, hash) = ("'subscriptionItem.active'", format!("'\\x{}'::bytea", &hex[..64]));
    Ok([
        "begin;\n".into(),
        statement("from entitlements.subject where id = $1 for update", &[PICKED])?,
        statement(
            "insert into entitlements.item",
            &[
                PICKED, item, "'pro'", plan_id, "'active'", "false", now, now, "null", "null",
                "false", "null", now, now, "4", message, now, now, "true", now,
            ],
        )?,
        statement(
            "insert into entitlements.observation",
            &[
                KEY,
                "true",
                message,
                "false",
                "null::timestamptz",
                "'item'",
                now,
                now,
                "null::text[]",
                "null::boolean",
                item,
                "'pro'",
                plan_id,
                "'active'",
                "false",
                "true",
                now,
                now,
                "null::timestamptz",
                "null::timestamptz",
                "null::timestamptz",
                "true",
                "false",
                "null::bigint",
                event,
                now,
                "'applied'",
                "null",
                &body,
                &hash,
                "'ins_3a2yozEruCDypYrqxx38FMn3hC6'",
                now,
            ],
        )?,
        "commit;\n".into(),
    ]
    .concat())
}
