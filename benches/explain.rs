//! Explanations: the time of `Support.Explain` for a subject with 50 items, four observations each, and 20 overrides.
//!
//! `cargo bench --bench explain`. One caller explains the answer of now, then the answer of a receipt. `CALLS=10000` sets
//! the number of calls (default 2000), `SUBJECTS=10000` the number of other subjects (default a million).

mod support;

use entitlements::api::pb::{
    ExplainRequest, Receipt, explain_request::Target, support_client::SupportClient,
};
use sqlx::{Connection, PgConnection};
use std::time::Instant;
use support::{BOTH, Server, database::Database, head, number, title};

const USER: &str = "user_of_the_explain_bench";

/// The subject, its items, their observations, and its overrides.
const RECORDS: &str = "
    insert into entitlements.subject (id, revision) values ('user_of_the_explain_bench', 200);
    insert into entitlements.observation
        (subject_key, revision, message, is_replay, kind, updated_at, sent_at, item, plan, plan_id, status, free_trial,
         was_active, period_start, period_end, is_paid, has_seats)
    select key, n, 'msg_' || n, false, 'item', now() - interval '1 day' + n * interval '1 second',
        now() - interval '1 day' + n * interval '1 second', 'csub_item_' || n % 50, 'pro',
        'cplan_' || n % 3, case when n % 7 = 0 then 'active' else 'ended' end, false, true, now() - interval '2 days',
        now() + interval '2 days', true, false
    from entitlements.subject, generate_series(1, 200) n where id = 'user_of_the_explain_bench';
    insert into entitlements.override
        (id, subject, feature, effect, starts_at, permanent, owner, reason, reference, set_by, on_behalf_of, set_at, revision)
    select ('00000000-0000-0000-0000-' || pg_catalog.lpad(n::text, 12, '0'))::uuid, 'user_of_the_explain_bench',
        'feature_' || n, 'grant', now() - interval '1 day', true, 'us', 'a bench', '', '', '', now() - interval '1 day', 200
    from pg_catalog.generate_series(1, 20) n";

fn main() -> anyhow::Result<()> {
    support::run(async || {
        let database = Database::start("bench").await?;
        let mut db = PgConnection::connect(&database.url()).await?;
        let known = "select exists (select from entitlements.subject where id = $1)";
        if !sqlx::query_scalar::<_, bool>(known).bind(USER).fetch_one(&mut db).await? {
            sqlx::raw_sql(RECORDS).execute(&mut db).await?;
        }
        let server = Server::ours(BOTH, &database.url(), &[]).await?;
        title("Explanations of a subject with 50 items, 200 observations and 20 overrides");
        head(&["question", "p50", "p99"]);
        let now = explain(&server, None, "the answer of now").await?;
        explain(&server, Some(now), "a receipt").await?;
        database.stop().await
    })
}

/// Explains an answer again and again, prints the percentiles, and returns the receipt of the answer.
async fn explain(server: &Server, receipt: Option<Receipt>, name: &str) -> anyhow::Result<Receipt> {
    let mut client = SupportClient::new(server.channel().await?);
    let request = ExplainRequest {
        user_id: USER.into(),
        target: Some(Target::Feature("export".into())),
        receipt,
        ..ExplainRequest::default()
    };
    let (mut took, mut answer) = (Vec::new(), None);
    for _ in 0..number("CALLS", 2_000) {
        let (request, began) = (server.signed(request.clone())?, Instant::now());
        answer = client.explain(request).await?.into_inner().answer;
        took.push(began.elapsed());
    }
    took.sort();
    let [p50, p99] =
        [took.len() / 2, took.len() * 99 / 100].map(|nth| took[nth].as_secs_f64() * 1e3);
    println!("| {name} | {p50:.2} ms | {p99:.2} ms |");
    let answer = answer.ok_or_else(|| anyhow::anyhow!("no answer"))?;
    Ok(Receipt { revision: answer.revision, checked_at: answer.checked_at, stale_for: None })
}
