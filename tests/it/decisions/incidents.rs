//! The incidents of `docs/support.md`: for each, its story is recorded at the times that it tells, and the commands of the
//! page print what the page shows. `UPDATE_DOCS=1` writes the page anew.

use crate::support::{
    database::Db,
    incident::{Event, INCIDENTS, Incident},
    service::{Replica, config},
    shell::Shell,
};
use chrono::TimeDelta;
use entitlements::{
    config::Config,
    domain::{Catalog, Subject},
    storage::{Author, Origin, Store},
};
use futures_util::{StreamExt, stream};
use sqlx::PgPool;
use std::{env, fs};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/support.md");

/// Moves what was recorded since the last call to an instant.
struct TimeMachine {
    db: PgPool,
    observation: i64,
    catalog: i64,
    plan_name: i64,
}

impl TimeMachine {
    async fn new(db: &Db) -> Self {
        let db = db.pool().await;
        let beginning = "update entitlements.history_retention set complete_from = '2026-10-01'";
        sqlx::query(beginning).execute(&db).await.unwrap();
        Self { db, observation: 0, catalog: 0, plan_name: 0 }
    }

    async fn moved_to(&mut self, at: &str) {
        let tables = [
            ("observation", "known_at", "id", &mut self.observation),
            ("catalog_version", "applied_at", "number", &mut self.catalog),
            ("plan_name", "known_at", "number", &mut self.plan_name),
        ];
        for (table, time, key, last) in tables {
            let sql = format!(
                "with moved as (
                    update entitlements.{table} set {time} = $1::text::timestamptz where {key} > $2 returning {key}
                ) select coalesce(pg_catalog.max({key}), $2) from moved"
            );
            let moved = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(sql));
            *last = moved.bind(at).bind(*last).fetch_one(&self.db).await.unwrap();
        }
    }
}

/// Records the story of an incident.
async fn record(incident: &Incident, db: &Db, replica: &Replica) {
    let mut time = TimeMachine::new(db).await;
    let store = Store::new(db.url.parse().unwrap());
    for (at, event) in (incident.events)() {
        match event {
            Event::Catalog(toml) => {
                let catalog = Catalog::from_toml(&toml).unwrap();
                store
                    .apply_catalog(
                        Author::Operator(None),
                        &catalog,
                        Origin::service("catalog.toml"),
                    )
                    .await
                    .unwrap();
                replica.caught_up().await;
            }
            Event::Message(id, body) => {
                let answer = replica.send_as(id, &body.to_string()).await;
                assert_eq!(answer.status, 200, "{}: {answer:?}", incident.title);
                assert_ne!(answer.result(), "parked", "{}: {answer:?}", incident.title);
            }
            Event::Undeleted(subject) => {
                let subject: Subject = subject.parse().unwrap();
                assert!(store.undelete(&subject).await.unwrap());
            }
        }
        time.moved_to(at).await;
    }
    store.close().await;
}

/// Runs a command line of the page, and returns what the terminal shows.
async fn terminal(line: &str, replica: &Replica) -> String {
    let arguments: Vec<_> = line.split_whitespace().skip(2).collect();
    let address = format!("http://{}", replica.bound.api);
    let shell = Shell::new(&[("ENTITLEMENTS_ADDR", &address)]);
    let (_, stdout, stderr) = shell.run(&arguments).await;
    format!("{stdout}{stderr}")
}

/// The text of an incident with the output of its commands.
async fn shown(incident: &'static Incident, text: String) -> (String, Vec<String>) {
    let db = Db::new().await;
    let mut config = Config { catalog: None, ..config(&db) };
    // The incidents are long ago, and their histories must stay.
    (config.retention.history, config.retention.history_after_deletion) =
        (None, TimeDelta::days(10_000));
    let replica = Replica::start_with(config).await;
    record(incident, &db, &replica).await;
    let (mut new, mut missing) = (Vec::new(), Vec::new());
    let (mut is_output, mut commands) = (false, 0);
    for line in text.lines() {
        if line.starts_with("$ entitlements ") {
            let output = terminal(line, &replica).await;
            let lines = output.lines().count();
            assert!((1..=25).contains(&lines), "{}: {lines} lines:\n{output}", incident.title);
            let causes = incident.causes.iter().filter(|cause| !output.contains(**cause));
            missing
                .extend(causes.map(|cause| format!("{}: no {cause} in\n{output}", incident.title)));
            new.extend([line.to_owned(), output.trim_end().to_owned()]);
            (is_output, commands) = (true, commands + 1);
        } else {
            is_output &= !line.starts_with("```");
            if !is_output {
                new.push(line.to_owned());
            }
        }
    }
    assert_eq!(commands, 1, "{}: one command explains an incident", incident.title);
    replica.stop().await.unwrap();
    (new.join("\n"), missing)
}

#[tokio::test]
async fn one_command_names_the_cause_of_each_incident_as_the_page_shows() {
    let page = fs::read_to_string(PAGE).unwrap();
    let (before, incidents) = page.split_once("\n### ").unwrap();
    let sections: Vec<_> = incidents.split("\n### ").map(|text| format!("### {text}")).collect();
    assert_eq!(sections.len(), INCIDENTS.len());
    let shown = sections.into_iter().zip(INCIDENTS).map(|(text, incident)| {
        assert!(text.contains(incident.title), "{} is not at its place", incident.title);
        self::shown(incident, text)
    });
    let shown: Vec<(String, Vec<String>)> = stream::iter(shown).buffered(3).collect().await;
    let missing: Vec<_> = shown.iter().flat_map(|(_, missing)| missing).collect();
    assert!(missing.is_empty(), "{missing:#?}");
    let new: Vec<_> = shown.iter().map(|(new, _)| new.trim_end()).collect();
    let new = format!("{before}\n{}\n", new.join("\n\n"));
    if env::var("UPDATE_DOCS").as_deref() == Ok("1") {
        fs::write(PAGE, new).unwrap();
    } else {
        let fix = "run `UPDATE_DOCS=1 cargo test --test it one_command_names_the_cause`";
        assert_eq!(new, page, "docs/support.md is outdated: {fix}");
    }
}
