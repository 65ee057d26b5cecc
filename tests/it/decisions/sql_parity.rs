//! The functions in SQL give the answers of the Rust core, in every field.

use crate::support::{database::Db, rng::Rng};
use chrono::{DateTime, Duration, SecondsFormat, Utc};
use entitlements::{
    api::pb,
    domain::{Account, Catalog, Decision, Question, Revision, Subject, Verdict, decide},
    storage::{Author, CatalogVersion, Origin, Store},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, postgres::PgRow};
use std::fmt::Write;

const FEATURES: [&str; 8] =
    ["reports", "export", "projects", "sso", "nothing", "user:export", "org:sso", "x:sso"];
const SLUGS: [&str; 6] = ["free", "pro", "max", "team", "gold", "old"];
const STATUSES: [&str; 12] = [
    "active",
    "active",
    "active",
    "past_due",
    "canceled",
    "ended",
    "abandoned",
    "upcoming",
    "incomplete",
    "paused",
    "expired",
    "withdrawn", // ours, not Clerk's: an unknown status if it is sent
];
/// Users and organizations of one round.
const SUBJECTS: usize = 30;
/// Questions of one round.
const QUESTIONS: usize = 500;

/// Each field of an answer, as text.
#[derive(Debug, PartialEq)]
struct Answer {
    allowed: bool,
    reason: String,
    subject: Option<String>,
    plan: Option<String>,
    limit: Option<i64>,
    valid_until: Option<DateTime<Utc>>,
    revision: String,
}

struct Asked {
    feature: &'static str,
    user: Option<String>,
    organization: Option<String>,
    at: DateTime<Utc>,
}

/// Generates rows of every table that a decision reads, also such that no sequence of messages leads to, and asks both.
/// `CASES=1000000` for the full number.
#[tokio::test]
async fn sql_answers_as_the_core_does() {
    let cases = std::env::var("CASES").map_or(10_000, |cases| cases.parse().unwrap());
    let db = Db::new().await;
    let store = Store::new(db.url.parse().unwrap());
    let mut connection = PgConnection::connect(&db.url).await.unwrap();
    let mut rng = Rng::new();
    let (mut asked, mut allowed) = (0, 0);
    while asked < cases {
        run(&mut connection, &plan_names(&mut rng)).await;
        apply_catalogs(&store, &mut rng).await;
        run(&mut connection, &accounts(&mut rng)).await;
        let catalog = store.catalog().await.unwrap().unwrap();
        let questions: Vec<_> = (0..QUESTIONS).map(|_| question(&mut rng)).collect();
        let found = ask_sql(&mut connection, &questions).await;
        for (question, found) in questions.iter().zip(found) {
            let expected = ask_core(&store, &catalog, question).await;
            let Asked { feature, user, organization, at } = question;
            assert_eq!(
                found, expected,
                "{feature} of {user:?} in {organization:?} at {at}, case {asked}"
            );
            allowed += usize::from(expected.allowed);
            asked += 1;
        }
    }
    println!("{asked} answers, {allowed} of them allow: 0 unequal");
    assert!(allowed > asked / 10 && allowed < asked / 10 * 9);
    store.close().await;
}

async fn run(db: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(db).await.unwrap();
}

fn instant(rng: &mut Rng) -> DateTime<Utc> {
    let start: DateTime<Utc> = "2100-01-01T00:00:00Z".parse().unwrap();
    start + Duration::hours(i64::try_from(rng.below(12 * 60)).unwrap() * 2)
}

/// One in `of` times null, else an instant, as SQL.
fn maybe_instant(rng: &mut Rng, of: usize) -> String {
    if rng.below(of) == 0 { "null".into() } else { quoted(&instant(rng).to_rfc3339()) }
}

fn quoted(text: &str) -> String {
    format!("'{text}'")
}

/// Pairs of plan id and slug, as webhooks report them: they make plans known by ids and by former slugs.
fn plan_names(rng: &mut Rng) -> String {
    let (kind, id, slug) = (rng.pick(&["user", "organization"]), rng.pick(&IDS), rng.pick(&SLUGS));
    let seen = quoted(&instant(rng).to_rfc3339());
    format!(
        "insert into entitlements.plan_name (kind, plan_id, slug, seen_at) values ('{kind}', '{id}', '{slug}', {seen})
         on conflict do nothing"
    )
}

const IDS: [&str; 4] = ["cplan_a", "cplan_b", "cplan_c", "cplan_d"];

/// Applies a random catalog of the file, and at times one of Clerk.
async fn apply_catalogs(store: &Store, rng: &mut Rng) {
    let author = if rng.below(3) == 0 { Author::Clerk(None) } else { Author::Operator(None) };
    let catalog = Catalog::from_toml(&catalog(rng)).unwrap();
    store.apply_catalog(author, &catalog, Origin::service("the test")).await.unwrap();
}

fn catalog(rng: &mut Rng) -> String {
    let mut toml = String::from("[grace]\n");
    for name in ["past_due", "renewal", "trial"] {
        if rng.below(3) > 0 {
            let days = rng.pick(&["0s", "1day", "5days", "9days", "9000years"]);
            writeln!(toml, "{name} = \"{days}\"").unwrap();
        }
    }
    for kind in ["user", "organization"] {
        let (first, count) = (rng.below(SLUGS.len()), 1 + rng.below(4));
        let plans: Vec<_> = (first..first + count).map(|nth| SLUGS[nth % SLUGS.len()]).collect();
        writeln!(toml, "[{kind}]").unwrap();
        if rng.below(4) > 0 {
            writeln!(toml, "default_plan = \"{}\"", rng.pick(&plans)).unwrap();
        }
        for (nth, plan) in plans.iter().enumerate() {
            writeln!(toml, "[{kind}.plans.{plan}]").unwrap();
            if rng.below(2) == 0 {
                writeln!(toml, "id = \"{}\"", IDS[nth]).unwrap();
            }
            let has = |rng: &mut Rng, feature| if rng.below(2) == 0 { feature } else { "" };
            let features = ["reports", "export", "sso"].map(|feature| has(rng, feature));
            let features: Vec<_> = features.iter().filter(|feature| !feature.is_empty()).collect();
            writeln!(toml, "features = {features:?}").unwrap();
            if rng.below(2) == 0 {
                writeln!(toml, "limits = {{ projects = {} }}", rng.below(40)).unwrap();
            }
        }
    }
    toml
}

/// The id of the nth subject: users and organizations take turns.
fn subject(nth: usize) -> String {
    let kind = if nth.is_multiple_of(2) { "user" } else { "org" };
    format!("{kind}_{nth}")
}

/// Replaces the rows of all subjects.
fn accounts(rng: &mut Rng) -> String {
    let mut sql = String::from(
        "delete from entitlements.override; delete from entitlements.failed_payment; delete from entitlements.snapshot;
         delete from entitlements.item; delete from entitlements.subject;",
    );
    for nth in 0..SUBJECTS {
        let (id, revision) = (subject(nth), rng.below(1_000));
        let deleted =
            if rng.below(10) == 0 { quoted(&instant(rng).to_rfc3339()) } else { "null".into() };
        writeln!(sql, "insert into entitlements.subject (id, revision, deleted_at) values ('{id}', {revision}, {deleted});")
            .unwrap();
        let items = rng.below(4);
        (0..items).for_each(|nth| item(rng, &mut sql, &id, nth));
        (0..rng.below(3)).for_each(|_| failed_payment(rng, &mut sql, &id));
        for has_items in [true, false] {
            snapshot(rng, &mut sql, &id, has_items);
        }
        (0..rng.below(4)).for_each(|_| override_of(rng, &mut sql, &id));
    }
    sql
}

fn item(rng: &mut Rng, sql: &mut String, subject: &str, nth: usize) {
    let plan = if rng.below(10) == 0 { "null".into() } else { quoted(rng.pick(&SLUGS)) };
    let plan_id = if rng.below(2) == 0 { "null".into() } else { quoted(rng.pick(&IDS)) };
    let status = rng.pick(&STATUSES);
    let [was_active, free_trial] = [(); 2].map(|()| rng.below(2) == 0);
    let [period_start, period_end] = [(); 2].map(|()| maybe_instant(rng, 4));
    let last_end = maybe_instant(rng, 2);
    let last_end_at =
        if last_end == "null" { "null".into() } else { maybe_instant(rng, 1_000_000) };
    let canceled_at = if rng.below(5) == 0 { maybe_instant(rng, 9) } else { "null".into() };
    let [past_due_at, paid_at] = [(); 2].map(|()| maybe_instant(rng, 2));
    let [updated_at, sent_at] = [(); 2].map(|()| quoted(&instant(rng).to_rfc3339()));
    writeln!(
        sql,
        "insert into entitlements.item (subject, id, plan, plan_id, status, was_active, free_trial, period_start,
            period_end, last_period_end, last_period_end_at, canceled_at, past_due_at, paid_at, has_seats, updated_at,
            sent_at, rank, svix_id)
         values ('{subject}', 'csub_{nth}', {plan}, {plan_id}, '{status}', {was_active}, {free_trial}, {period_start},
            {period_end}, {last_end}, {last_end_at}, {canceled_at}, {past_due_at}, {paid_at}, false, {updated_at},
            {sent_at}, 0, 'msg_1');"
    )
    .unwrap();
}

fn failed_payment(rng: &mut Rng, sql: &mut String, subject: &str) {
    let (item, updated_at, failed_at) =
        (rng.below(4), instant(rng).to_rfc3339(), instant(rng).to_rfc3339());
    writeln!(
        sql,
        "insert into entitlements.failed_payment (subject, item, updated_at, failed_at)
         values ('{subject}', 'csub_{item}', '{updated_at}', '{failed_at}') on conflict do nothing;"
    )
    .unwrap();
}

fn snapshot(rng: &mut Rng, sql: &mut String, subject: &str, has_items: bool) {
    if rng.below(3) == 0 {
        return;
    }
    let items: Vec<_> = (0..4)
        .filter(|_| has_items && rng.below(2) == 0)
        .map(|nth| format!("csub_{nth}"))
        .collect();
    let (items, canceled) = (items.join(","), rng.below(2) == 0);
    let (updated_at, sent_at) = (instant(rng).to_rfc3339(), instant(rng).to_rfc3339());
    writeln!(
        sql,
        "insert into entitlements.snapshot (subject, has_items, item_ids, canceled, updated_at, sent_at, svix_id)
         values ('{subject}', {has_items}, '{{{items}}}', {canceled}, '{updated_at}', '{sent_at}', 'msg_1');"
    )
    .unwrap();
}

fn override_of(rng: &mut Rng, sql: &mut String, subject: &str) {
    let is_of_plan = rng.below(3) == 0;
    let effects: &[_] = if is_of_plan {
        &["deny", "grant", "grant"]
    } else {
        &["deny", "grant", "unlimited", "at_least", "exactly", "exactly"]
    };
    let effect = rng.pick(effects);
    let (feature, plan) = if is_of_plan {
        ("null".into(), quoted(rng.pick(&SLUGS)))
    } else {
        (quoted(rng.pick(&FEATURES[..5])), "null".into())
    };
    let limit = if effect.starts_with("at_") || effect == "exactly" {
        rng.below(50).to_string()
    } else {
        "null".into()
    };
    let set_at = instant(rng);
    let starts_at = if rng.below(2) == 0 { Some(instant(rng)) } else { None };
    let expires_at = (rng.below(3) > 0).then(|| {
        starts_at.unwrap_or(set_at) + Duration::days(1 + i64::try_from(rng.below(30)).unwrap())
    });
    let text = |at: Option<DateTime<Utc>>| at.map_or("null".into(), |at| quoted(&at.to_rfc3339()));
    let (starts, expires, permanent, set_at) =
        (text(starts_at), text(expires_at), expires_at.is_none(), set_at.to_rfc3339());
    let ended = if rng.below(8) == 0 {
        format!("'{set_at}', 'a', '', 'b', 2")
    } else {
        "null, null, null, null, null".into()
    };
    writeln!(
        sql,
        "insert into entitlements.override (id, subject, feature, plan, effect, \"limit\", starts_at, expires_at, permanent,
            owner, reason, reference, set_by, on_behalf_of, set_at, revision, ended_at, ended_by, ended_on_behalf_of,
            ended_reason, ended_revision)
         values (gen_random_uuid(), '{subject}', {feature}, {plan}, '{effect}', {limit}, {starts}, {expires}, {permanent},
            'o', 'r', '', 's', '', '{set_at}', 1, {ended});"
    )
    .unwrap();
}

fn question(rng: &mut Rng) -> Asked {
    // Two subjects more than there are: nothing is stored about them.
    let nth = |rng: &mut Rng| rng.below(SUBJECTS / 2 + 1) * 2;
    let [user, organization] = [subject(nth(rng)), subject(nth(rng) + 1)];
    let (user, organization) = match rng.below(4) {
        0 => (Some(user), None),
        1 => (None, Some(organization)),
        _ => (Some(user), Some(organization)),
    };
    let ms = Duration::milliseconds(rng.pick(&[-1, 0, 0, 1]));
    Asked { feature: rng.pick(&FEATURES), user, organization, at: instant(rng) + ms }
}

async fn ask_sql(db: &mut PgConnection, questions: &[Asked]) -> Vec<Answer> {
    let values: Vec<_> = questions
        .iter()
        .enumerate()
        .map(|(nth, asked)| {
            let id = |id: &Option<String>| id.as_ref().map_or("null".into(), |id| quoted(id));
            let (user, organization) = (id(&asked.user), id(&asked.organization));
            let at = asked.at.to_rfc3339_opts(SecondsFormat::Millis, true);
            format!("({nth}, '{}', {user}, {organization}, timestamptz '{at}')", asked.feature)
        })
        .collect();
    let sql = format!(
        "select answer.* from (values {}) as asked (nth, feature, user_id, organization_id, at)
         cross join lateral entitlements.check_feature(feature, user_id, organization_id, at) as answer order by nth",
        values.join(", ")
    );
    let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut *db).await.unwrap();
    assert_eq!(rows.len(), questions.len());
    let sql = format!(
        "select count(*) from (values {}) as asked (nth, feature, user_id, organization_id, at)
         cross join lateral entitlements.check_feature(feature, user_id, organization_id) as answer
         where entitlements.has_feature(feature, user_id, organization_id) <> allowed
            or entitlements.limit_of(feature, user_id, organization_id)
                <> case when allowed then coalesce(\"limit\", 9223372036854775807) else 0 end",
        values.join(", ")
    );
    let unequal: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(db).await.unwrap();
    assert_eq!(unequal, 0, "has_feature and limit_of are parts of the answer of check_feature");
    rows.iter().map(sql_answer).collect()
}

fn sql_answer(row: &PgRow) -> Answer {
    Answer {
        allowed: row.get("allowed"),
        reason: row.get("reason"),
        subject: row.get("subject"),
        plan: row.get("plan"),
        limit: row.get("limit"),
        valid_until: row.get("valid_until"),
        revision: row.get("revision"),
    }
}

async fn ask_core(store: &Store, catalog: &CatalogVersion, asked: &Asked) -> Answer {
    let mut accounts: Vec<Account> = Vec::new();
    for id in asked.user.iter().chain(&asked.organization) {
        accounts.push(store.account(&id.parse().unwrap()).await.unwrap());
    }
    let question = Question::feature(asked.feature).unwrap();
    let all: Vec<_> = accounts.iter().collect();
    let Decision { verdict, valid_until } = decide(&all, &catalog.catalog, &question, asked.at);
    let revisions = accounts.iter().map(|account| (&account.subject, account.revision));
    let text = |subject: &Subject| subject.as_str().to_owned();
    let (allowed, reason, subject, plan, limit) = match verdict {
        Verdict::Allowed { reason, subject, plan, limit, .. } => {
            (true, pb::Reason::from(reason), Some(text(subject)), plan, limit)
        }
        Verdict::Denied { reason, subject, plan } => {
            (false, reason.into(), subject.map(text), plan, None)
        }
    };
    Answer {
        allowed,
        reason: reason.as_str_name().into(),
        subject,
        plan: plan.map(Into::into),
        limit: limit.map(|limit| i64::try_from(limit).unwrap()),
        valid_until,
        revision: Revision::token(catalog.state(), revisions),
    }
}
