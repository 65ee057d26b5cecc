//! Receipts: every answer is derived again, equal in all fields, from its question, `revision`, `checked_at` and
//! `stale_for`. `RECEIPTS=100000 cargo test --release --test it receipts:: -- --nocapture` is the long form.

use crate::support::{
    database::Db,
    process::Process,
    rng::Rng,
    service::{Replica, config, eventually, is_acknowledged, plain_http},
    stories::Story,
};
use chrono::{TimeDelta, Utc};
use entitlements::{
    api::pb::{
        CheckFeatureRequest, CheckFeatureResponse, CheckPlanRequest, CheckPlanResponse,
        ExplainRequest, Receipt, ReplayDeliveriesRequest, entitlements_client::EntitlementsClient,
        explain_request::Target, support_client::SupportClient,
    },
    config::Config,
    domain::{Actor, Amount, Catalog, Effect, OverrideNote, Slug, Subject, Until},
    storage::{Author, ChangeConditions, EndOverride, NewOverride, Origin, Store},
};
use futures_util::{StreamExt, stream};
use std::{
    env,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};
use tonic::{Status, transport::Channel};

/// The stories are deleted long ago, and their histories must stay.
const KEEPS_HISTORY: [(&str, &str); 1] = [("ENTITLEMENTS_HISTORY_AFTER_DELETION", "10000days")];

/// A question, and the answer that it got.
#[derive(Debug, Clone)]
struct Answered {
    user: String,
    org: String,
    target: Target,
    answer: CheckFeatureResponse,
}

fn as_feature(answer: CheckPlanResponse) -> CheckFeatureResponse {
    CheckFeatureResponse {
        allowed: answer.allowed,
        reason: answer.reason,
        subject: answer.subject,
        plan: answer.plan,
        limit: None,
        valid_until: answer.valid_until,
        revision: answer.revision,
        checked_at: answer.checked_at,
        stale_for: answer.stale_for,
    }
}

async fn ask(
    mut client: EntitlementsClient<Channel>,
    user: String,
    org: String,
    target: Target,
) -> Result<Answered, Status> {
    let (user_id, organization_id) = (user.clone(), org.clone());
    let answer = match target.clone() {
        Target::Feature(feature) => {
            let request =
                CheckFeatureRequest { user_id, organization_id, feature, ..Default::default() };
            client.check_feature(request).await?.into_inner()
        }
        Target::Plan(plan) => {
            let request = CheckPlanRequest { user_id, organization_id, plan, ..Default::default() };
            as_feature(client.check_plan(request).await?.into_inner())
        }
    };
    Ok(Answered { user, org, target, answer })
}

/// The catalogs that come into force one after another: with other features, graces, and plans.
fn catalogs() -> Vec<Catalog> {
    let example = include_str!("../../../catalog.example.toml");
    [
        example.to_owned(),
        example.replace(
            "features = [\"basic_reports\", \"export\", \"api_access\"]",
            "limits = { export = 5 }",
        ),
        format!("{example}\n[grace]\npast_due = \"1s\"\nrenewal = \"2days\"\ntrial = \"1h\"\n"),
        example.replace("[user.plans.max]", "[user.plans.maximum]"),
    ]
    .iter()
    .map(|text| Catalog::from_toml(text).unwrap())
    .collect()
}

/// A random question about one of the subjects, or about two of them.
fn question(stories: &[Story], rng: &mut Rng) -> (String, String, Target) {
    let pick = |kind: &str, rng: &mut Rng| {
        let story = &stories[rng.below(stories.len())];
        if story.subject.starts_with(kind) { story.subject.clone() } else { String::new() }
    };
    let (mut user, org) = (pick("user_", rng), pick("org_", rng));
    if user.is_empty() && org.is_empty() {
        user = "user_unknown".into();
    }
    let features =
        ["export", "sso", "org:sso", "user:export", "basic_reports", "ai_assistant", "x:sso", "no"];
    let target = match rng.below(4) {
        0 => Target::Plan(rng.pick(&["pro", "org:team", "free_user", "maximum", "max"]).into()),
        _ => Target::Feature(rng.pick(&features).into()),
    };
    (user, org, target)
}

/// Three services on one database, and where to reach them.
struct Services {
    urls: Mutex<Vec<(String, EntitlementsClient<Channel>)>>,
    is_over: AtomicBool,
    answered: Mutex<Vec<Answered>>,
}

impl Services {
    /// Asks random questions until all deliveries are made and there are enough answers.
    async fn ask(&self, stories: &[Story], seed: usize, count: usize) {
        let mut rng = Rng::new();
        for _ in 0..seed * 1000 {
            rng.below(2); // another part of the sequence
        }
        let mut got = 0;
        while got < count || !self.is_over.load(Ordering::Relaxed) {
            let (user, org, target) = question(stories, &mut rng);
            let (_, client) = rng.pick(&self.urls.lock().unwrap().clone());
            if let Ok(answered) = ask(client, user, org, target).await {
                self.answered.lock().unwrap().push(answered);
                got += 1;
            }
        }
    }

    /// Sets random overrides, some of which replace another one, and ends some, until all deliveries are made; returns
    /// the number of changes.
    async fn make_exceptions(&self, stories: &[Story], url: &str) -> usize {
        let (store, mut rng, mut set) = (Store::new(url.parse().unwrap()), Rng::new(), Vec::new());
        let (mut count, conditions) = (0, ChangeConditions::default());
        while !self.is_over.load(Ordering::Relaxed) {
            let subject: Subject = stories[rng.below(stories.len())].subject.parse().unwrap();
            let feature: Slug = rng.pick(&["export", "sso", "no"]).parse().unwrap();
            let effect = match rng.below(4) {
                0 => Effect::DenyFeature(feature),
                1 => Effect::GrantPlan(rng.pick(&["pro", "team"]).parse().unwrap()),
                2 => Effect::GrantFeature(feature, Amount::Exactly(3)),
                _ => Effect::GrantFeature(feature, Amount::AtLeast(7)),
            };
            let changed = if !set.is_empty() && rng.below(3) == 0 {
                let (by, id) = (Actor::default(), set.swap_remove(rng.below(set.len())));
                let end = EndOverride { id, by, reason: "over".into() };
                store.end_override(&end, &conditions).await
            } else {
                let text = || "a test".to_owned();
                let note = OverrideNote { owner: text(), reason: text(), reference: text() };
                let from = Some(Utc::now() + TimeDelta::milliseconds(20));
                let until = Until::Instant(Utc::now() + TimeDelta::seconds(rng.pick(&[1, 5, 30])));
                let set_by = Actor::default();
                let (replaces, key) = (None, None);
                let new = NewOverride { subject, effect, from, until, note, set_by, replaces, key };
                store.set_override(&new, &conditions).await
            };
            // A deleted subject gets none, and an expired one does not end.
            if let Ok(Ok(changed)) = changed {
                set.extend(changed.record.end.is_none().then_some(changed.record.found.id));
                count += 1;
            }
        }
        store.close().await;
        count
    }

    /// Delivers all messages in a random order, each until it is acknowledged.
    async fn deliver(&self, stories: &[Story], delivered: &AtomicUsize) {
        let (mut rng, client) = (Rng::new(), plain_http());
        let all: Vec<_> = stories.iter().flat_map(|story| &story.messages).collect();
        let sent = rng.shuffled(&all).into_iter().enumerate().map(|(nth, (id, body))| {
            let (client, body) = (&client, body.to_string());
            async move {
                eventually("the delivery is acknowledged", async || {
                    let (webhook, _) = {
                        let urls = self.urls.lock().unwrap();
                        urls[nth % urls.len()].clone()
                    };
                    is_acknowledged(client, &webhook, id, &body).await
                })
                .await;
                delivered.fetch_add(1, Ordering::Relaxed);
            }
        });
        stream::iter(sent).buffer_unordered(8).collect::<Vec<()>>().await;
    }
}

/// Where a service takes deliveries, and a client for checks.
fn reached(process: &Process) -> (String, EntitlementsClient<Channel>) {
    let channel = Channel::from_shared(process.grpc.clone()).unwrap().connect_lazy();
    (process.http.clone(), EntitlementsClient::new(channel))
}

/// Explains each answer by its receipt.
async fn derive_again(replica: &Replica, answered: &[Answered]) {
    let explained = answered.iter().map(|one| {
        let mut client = SupportClient::new(replica.channel.clone());
        let CheckFeatureResponse { revision, checked_at, stale_for, .. } = one.answer.clone();
        let request = ExplainRequest {
            user_id: one.user.clone(),
            organization_id: one.org.clone(),
            target: Some(one.target.clone()),
            receipt: Some(Receipt { revision, checked_at, stale_for }),
            ..Default::default()
        };
        async move {
            let explained = client.explain(request).await;
            let explained = explained.unwrap_or_else(|status| panic!("{one:?}: {status:?}"));
            assert_eq!(explained.into_inner().answer.as_ref(), Some(&one.answer), "{one:?}");
        }
    });
    stream::iter(explained).buffer_unordered(8).collect::<Vec<()>>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_derived_again_from_its_receipt() {
    let count: usize = env::var("RECEIPTS").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000);
    let mut rng = Rng::new();
    let stories: Vec<_> = (0..count / 80).map(|n| Story::new(n, &mut rng)).collect();
    let messages: usize = stories.iter().map(|story| story.messages.len()).sum();
    let db = Db::new().await;
    let mut processes = Vec::new();
    for _ in 0..3 {
        processes.push(Process::start(&db.url, &KEEPS_HISTORY).await);
    }
    let urls = processes.iter().map(reached).collect();
    let services = Services {
        urls: Mutex::new(urls),
        is_over: AtomicBool::new(false),
        answered: Mutex::default(),
    };
    let delivered = Arc::new(AtomicUsize::new(0));
    let change = async {
        let (store, catalogs) = (Store::new(db.url.parse().unwrap()), catalogs());
        for nth in 1..=8 {
            eventually("more messages are delivered", async || {
                delivered.load(Ordering::Relaxed) * 9 >= messages * nth
            })
            .await;
            let catalog = &catalogs[nth % catalogs.len()];
            store
                .apply_catalog(Author::Operator(None), catalog, Origin::service("test"))
                .await
                .unwrap();
            let (victim, mut next) = (nth % 3, Process::start(&db.url, &KEEPS_HISTORY).await);
            services.urls.lock().unwrap()[victim] = reached(&next);
            std::mem::swap(&mut processes[victim], &mut next);
            next.kill().await;
        }
        store.close().await;
    };
    let exceptions = services.make_exceptions(&stories, &db.url);
    let deliver = async {
        services.deliver(&stories, &delivered).await;
        services.is_over.store(true, Ordering::Relaxed);
    };
    let askers = (0..3).map(|seed| services.ask(&stories, seed, count / 3 + 1));
    let askers = futures_util::future::join_all(askers);
    let ((), (), overrides, _) = futures_util::join!(change, deliver, exceptions, askers);

    let answered = services.answered.into_inner().unwrap();
    let allowed = answered.iter().filter(|one| one.answer.allowed).count();
    let is_by_override = |one: &&Answered| one.answer.reason().as_str_name().contains("OVERRIDE");
    let by_override = answered.iter().filter(is_by_override).count();
    assert!(by_override > 0 && overrides > 0, "{by_override} answers by {overrides} overrides");
    assert!(answered.len() >= count && allowed > count / 20, "{allowed} of {}", answered.len());
    let mut config = Config { catalog: None, ..config(&db) };
    config.retention.history_after_deletion = chrono::Duration::days(10_000);
    config.connection_age = std::time::Duration::from_hours(24); // one connection for all explanations
    let replica = Replica::start_with(config).await;
    derive_again(&replica, &answered).await;
    let mut page_token = String::new();
    loop {
        let request = ReplayDeliveriesRequest { page_token, page_size: 1000, ..Default::default() };
        let page = replica.admin().replay_deliveries(request).await.unwrap().into_inner();
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    derive_again(&replica, &answered).await;
    println!(
        "{} answers, {by_override} of them by overrides, {messages} messages, {overrides} overrides set or ended, 8 catalogs, \
         8 kills: all derived again",
        answered.len()
    );
    replica.stop().await.unwrap();
}
