//! A durable Postgres with many subjects, and pgbench with the statements of the service.

use super::{number, pinned};
use anyhow::{Context, ensure};
use embedded_postgres::{Binaries, Embedded};
use entitlements::{api::pb::CheckFeatureRequest, storage};
use sqlx::{Connection, PgConnection};
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// The settings of a service that caches all subjects and loads them as fast as possible.
pub const HOLDS_ALL: [&str; 4] = ["--cache-mib", "8192", "--check-timeout", "10s"];

/// The number of subjects that one statement inserts.
const BATCH: i64 = 100_000;

/// A Postgres of the benches that flushes to disk as by default. Its data is kept below `target/`, and the next run
/// only adds missing subjects.
pub struct Database {
    postgres: Embedded,
    /// The process id of the postmaster.
    pid: i32,
    pub subjects: u64,
}

impl Database {
    /// Starts a server with `SUBJECTS` subjects (default a million) of two items each.
    pub async fn start(folder: &str) -> anyhow::Result<Self> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target").join(folder);
        fs::create_dir_all(&folder)?;
        let postgres = Embedded::persistent(&folder, &Binaries::from_env()?).await?;
        let url = postgres.url("entitlements");
        storage::migrate(&url.parse()?).await?;
        let mut db = PgConnection::connect(&url).await?;
        let subjects = number("SUBJECTS", 1_000_000);
        fill(&mut db, i64::try_from(subjects)?, 2).await?;
        let backend = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut db).await?;
        bring_to_memory(&folder)?;
        println!("{}, {subjects} subjects", postgres.describe());
        db.close().await?;
        Ok(Self { postgres, pid: parent(backend)?, subjects })
    }

    pub fn url(&self) -> String {
        self.postgres.url("entitlements")
    }

    /// Pins the server and all its later sessions to these cores.
    pub fn pin(&self, cores: &str) -> anyhow::Result<()> {
        let moved =
            Command::new("taskset").args(["-apc", cores, &self.pid.to_string()]).output()?;
        ensure!(moved.status.success(), "taskset cannot move Postgres to {cores}");
        Ok(())
    }

    pub async fn stop(self) -> anyhow::Result<()> {
        self.postgres.stop().await
    }

    /// The statements per second of pgbench with prepared statements, from `clients` sessions, all on one core.
    pub fn pgbench(&self, cores: &str, script: &Path, clients: u32) -> anyhow::Result<f64> {
        let seconds = number("SECONDS", 3).to_string();
        let program = Path::new("/proc").join(self.pid.to_string()).join("exe");
        let beside = fs::read_link(program)?.with_file_name("pgbench");
        let found = [beside, "/usr/bin/pgbench".into()].into_iter().find(|path| path.exists());
        let pgbench = found.context(
            "pgbench is missing: apt-get install postgresql-contrib (it comes with the PostgreSQL binaries)",
        )?;
        let output = pinned(cores, pgbench)
            .args(["--no-vacuum", "--protocol=prepared", "--jobs=1", "--time", &seconds])
            .arg("--client")
            .arg(clients.to_string())
            .arg("--file")
            .arg(script)
            .arg(self.url())
            .output()?;
        let text = String::from_utf8(output.stdout)?;
        ensure!(
            output.status.success() && text.contains("failed transactions: 0 "),
            "pgbench failed: {text} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let rate = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next());
        Ok(rate.context("pgbench printed no tps")?.parse()?)
    }
}

/// Reads all files below a folder into the page cache, so that the first round does not read from the disk.
fn bring_to_memory(folder: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            bring_to_memory(&entry.path())?;
        } else if entry.file_type()?.is_file() {
            let mut file = fs::File::open(entry.path());
            let _ = file.as_mut().map(|file| io::copy(file, &mut io::sink())); // it may have been deleted
        }
    }
    Ok(())
}

fn parent(pid: i32) -> anyhow::Result<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').context("no name")?.1;
    Ok(after_name.split_whitespace().nth(1).context("no parent")?.parse()?)
}

/// The only statement of the service that contains these words, with its parameters replaced. It is read from `.sqlx`,
/// which the build uses, so it cannot differ.
pub fn statement(words: &str, parameters: &[&str]) -> anyhow::Result<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(".sqlx");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let query: serde_json::Value = serde_json::from_str(&fs::read_to_string(entry?.path())?)?;
        let text = query["query"].as_str().context("no query")?.to_owned();
        found.extend(Some(text).filter(|text| text.contains(words)));
    }
    ensure!(found.len() == 1, "{} statements have `{words}`", found.len());
    let without_comments = |line| str::split(line, "--").next();
    let lines: Vec<_> = found[0].lines().filter_map(without_comments).map(str::trim).collect();
    let mut text = lines.join(" ");
    let next = format!("${}", parameters.len() + 1);
    ensure!(!text.contains(&next), "the statement has more parameters than are given: {text}");
    for (i, value) in parameters.iter().enumerate().rev() {
        text = text.replace(&format!("${}", i + 1), value);
    }
    ensure!(!text.contains('$'), "a parameter is left: {text}");
    Ok(text + ";\n")
}

/// Inserts missing subjects, with the values of Clerk's payloads and ids of the length of Clerk's.
pub async fn fill(db: &mut PgConnection, subjects: i64, items: i64) -> anyhow::Result<()> {
    let began = Instant::now();
    let count = "select count(*) from entitlements.subject where id like 'user\\_2%'";
    let mut there: i64 = sqlx::query_scalar(count).fetch_one(&mut *db).await?;
    let found = there;
    sqlx::raw_sql("set synchronous_commit = off").execute(&mut *db).await?;
    while there < subjects {
        let make = "
            with made as (
                insert into entitlements.subject (id, revision)
                select 'user_2' || to_char(n, 'FM00000000000000000000000000'), 1
                from generate_series($1, $2) n on conflict do nothing returning id
            )
            insert into entitlements.item (subject, id, plan, plan_id, status, free_trial, period_start, period_end,
                has_seats, updated_at, sent_at, rank, svix_id)
            select id, 'csub_item_' || nth || substr(id, 7), case nth when 1 then 'pro' else 'free_user' end,
                'cplan_3aTc6pQ8mXeWv1LrNs0YdHf5GkJ', case nth when 1 then 'active' else 'ended' end,
                false, now(), now() + interval '30 days', false, now(), now(), 1, 'msg_2' || substr(id, 7)
            from made, generate_series(1, $3) nth";
        let until = (there + BATCH).min(subjects);
        sqlx::query(make).bind(there).bind(until - 1).bind(items).execute(&mut *db).await?;
        there = until;
    }
    sqlx::raw_sql("set synchronous_commit = on").execute(&mut *db).await?;
    if there > found {
        for tidy in ["vacuum analyze", "checkpoint"] {
            sqlx::raw_sql(tidy).execute(&mut *db).await?;
        }
        println!("{there} subjects, {} of them made in {:.1?}", there - found, began.elapsed());
    }
    Ok(())
}

/// The id of the nth subject.
pub fn user(number: u64) -> String {
    format!("user_2{number:026}")
}

/// The request about the nth subject, whose plan has the feature.
pub fn question(number: u64) -> CheckFeatureRequest {
    CheckFeatureRequest { user_id: user(number), feature: "export".into(), ..Default::default() }
}

/// The position of the subject's number in a request.
pub fn place(body: &[u8]) -> anyhow::Result<usize> {
    let at = body.windows(26).rposition(|digits| digits.iter().all(u8::is_ascii_digit));
    at.context("no subject's number")
}
