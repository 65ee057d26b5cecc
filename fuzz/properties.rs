//! What must hold of any bytes that reach a parser. The fuzz targets call these with what libFuzzer makes up,
//! `tests/it/corpus.rs` with what is kept in `corpus/`.

use chrono::{DateTime, Utc};
use entitlements::{
    api::{
        AdminApi, Api,
        pb::{self, admin_server::Admin, entitlements_server::Entitlements},
    },
    check::Checks,
    clerk::{self, Refusal, Secret, Verified, Verifier},
    domain::{Catalog, Grace, Id, News, Observation, PlanNames, Reading, Revision, Subject},
    ingest::{Deliveries, ServedInstance},
    replica::Accounts,
    storage::Store,
    telemetry::Metrics,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::runtime::{Builder, Runtime};
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;

/// Longer than any text that is stored or logged.
const LONGEST: usize = 128;

/// A webhook's body: whatever it is, what is read of it is short, storable and possible, and reading it again by
/// the same clock says the same.
pub fn webhook(body: &[u8]) {
    let now: DateTime<Utc> = "2026-11-23T00:00:00Z".parse().unwrap();
    let message = clerk::read(body, None, now);
    assert_eq!(message, clerk::read(body, None, now));
    for text in [&message.event, &message.instance].into_iter().flatten() {
        assert_storable(text);
    }
    if let Some(subject) = &message.subject {
        assert_subject(subject);
    }
    let latest = now + chrono::Duration::hours(24);
    assert!(message.sent_at.is_none_or(|at| at <= latest));
    match &message.reading {
        Reading::Ignored(why) | Reading::Parked(why) | Reading::Foreign(why) => {
            assert!(!why.is_empty() && why.len() < 1024 && !why.contains('\0'), "{why}");
        }
        Reading::News(News::Deleted { subject, at }) => {
            assert_subject(subject);
            assert!(*at <= latest);
        }
        Reading::News(News::Items { subject, items, snapshot, .. }) => {
            assert_eq!(message.subject.as_ref(), Some(subject));
            for item in items {
                assert_item(item, latest);
            }
            let mut ids: Vec<_> = items.iter().map(|told| &told.item.id).collect();
            ids.sort();
            ids.dedup();
            assert_eq!(ids.len(), items.len(), "an item is told of twice");
            for id in snapshot.iter().flat_map(|s| s.listed.iter().flatten()) {
                assert!(ids.binary_search(&id).is_ok(), "{id} is listed and not told of");
            }
        }
    }
}

fn assert_item(Observation { item, sent_at, .. }: &Observation, latest: DateTime<Utc>) {
    assert_storable(&item.id);
    assert_storable(item.status.as_str());
    for text in item.plan.iter().chain(&item.plan_id) {
        assert_storable(text);
    }
    assert!(item.updated_at <= latest && *sent_at <= latest);
}

fn assert_subject(subject: &Subject) {
    assert_storable(subject.as_str());
    assert_eq!(subject.as_str().parse::<Subject>().as_ref(), Ok(subject));
    assert_eq!(Id::of(subject.kind(), subject.as_str()).map(Id::as_str), Ok(subject.as_str()));
}

fn assert_storable(text: &str) {
    assert!(!text.is_empty() && text.len() <= LONGEST && !text.contains('\0'), "{text:?}");
}

/// The head and body of a delivery: lines of `name: value`, an empty line, the body. `NOW` as the timestamp is this
/// instant and `SIGN` as the signature is the right one, so that what is well formed gets through. Only that does.
pub fn headers(bytes: &[u8]) {
    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let secret = || Secret::parse(&SECRET.to_owned().into()).unwrap();
    let split = bytes.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = split.map_or((bytes, &[][..]), |at| (&bytes[..at], &bytes[at + 2..]));
    let now = Utc::now().timestamp();
    let (mut headers, mut is_signed) = (HeaderMap::new(), false);
    let (mut id, mut at): (Option<String>, Option<i64>) = (None, None);
    for line in head.split(|byte| *byte == b'\n') {
        let Some(colon) = line.windows(2).position(|pair| pair == b": ") else { continue };
        let Ok(name) = HeaderName::from_bytes(&line[..colon]) else { continue };
        let mut value = line[colon + 2..].to_vec();
        if value == b"NOW" {
            value = now.to_string().into_bytes();
        } else if value == b"SIGN"
            && let (Some(id), Some(at), Ok(body)) = (&id, at, std::str::from_utf8(body))
        {
            value = secret().sign(id, at, body).into_bytes();
            is_signed = true;
        }
        let Ok(sent) = HeaderValue::from_bytes(&value) else { continue };
        let text = String::from_utf8(value).ok();
        match name.as_str() {
            "svix-id" | "webhook-id" => id = text,
            "svix-timestamp" | "webhook-timestamp" => at = text.and_then(|text| text.parse().ok()),
            _ => {}
        }
        headers.append(name, sent);
    }
    match Verifier::new(vec![secret()]).verify(&headers, body, now) {
        Ok(Verified { id: found, .. }) => {
            assert!(is_signed, "nobody signed it");
            assert_eq!(Some(&found), id.as_ref());
            assert!((1..=LONGEST).contains(&found.len()));
            assert!(found.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)));
            assert!(at.is_some_and(|at| now.abs_diff(at) <= 301), "{at:?} is not now");
        }
        Err(Refusal::Malformed(why) | Refusal::Unverified(why)) => {
            assert!(!why.is_empty() && why.len() < 256 && !why.contains(&SECRET[6..]));
        }
    }
}

/// A request to one of the methods, which the first byte picks. A service that has heard of no database yet can
/// answer none: what can be meant is UNAVAILABLE, and what cannot says by field what is wrong.
pub fn request(bytes: &[u8]) {
    let Some((method, bytes)) = bytes.split_first() else { return };
    let asked = asked();
    match method % 7 {
        0 => call(
            bytes,
            |r| asked.block(asked.api.check_feature(r)),
            |r: &pb::CheckFeatureRequest| {
                assert_ids(&r.user_id, &r.organization_id);
                assert!(!r.feature.is_empty());
            },
        ),
        1 => call(
            bytes,
            |r| asked.block(asked.api.check_features(r)),
            |r: &pb::CheckFeaturesRequest| {
                assert!((1..=100).contains(&r.questions.len()));
                r.questions.iter().for_each(|q| assert_ids(&q.user_id, &q.organization_id));
            },
        ),
        2 => call(
            bytes,
            |r| asked.block(asked.api.check_plan(r)),
            |r: &pb::CheckPlanRequest| {
                assert_ids(&r.user_id, &r.organization_id);
            },
        ),
        3 => call(
            bytes,
            |r| asked.block(asked.api.list_entitlements(r)),
            |r: &pb::ListEntitlementsRequest| {
                assert_ids(&r.user_id, &r.organization_id);
            },
        ),
        4 => call(
            bytes,
            |r| asked.block(asked.admin.list_deliveries(r)),
            |r: &pb::ListDeliveriesRequest| {
                assert!(r.page_size <= 1000);
            },
        ),
        5 => call(
            bytes,
            |r| asked.block(asked.admin.replay_deliveries(r)),
            |r: &pb::ReplayDeliveriesRequest| {
                assert!(r.page_size <= 1000);
            },
        ),
        _ => call(
            bytes,
            |r| asked.block(asked.admin.get_delivery(r)),
            |_: &pb::GetDeliveryRequest| {},
        ),
    }
}

/// What the service says to a request; `meant` is what must hold of one that it did not refuse.
fn call<R: Message + Default + Clone, A>(
    bytes: &[u8],
    ask: impl FnOnce(Request<R>) -> Result<Response<A>, Status>,
    meant: impl FnOnce(&R),
) {
    let Ok(request) = R::decode(bytes) else { return };
    let again = R::decode(&*request.encode_to_vec()).expect("what was encoded can be decoded");
    let Err(status) = ask(Request::new(request)) else { panic!("answered without a database") };
    match status.code() {
        Code::Unavailable => meant(&again),
        Code::InvalidArgument => {
            let fields = status.get_details_bad_request().expect("a BadRequest").field_violations;
            assert!(!fields.is_empty());
            assert!(fields.iter().all(|f| !f.field.is_empty() && !f.description.is_empty()));
        }
        code => panic!("{code:?}: {}", status.message()),
    }
}

fn assert_ids(user: &str, organization: &str) {
    assert!(!user.is_empty() || !organization.is_empty());
    for (id, prefix) in [(user, "user_"), (organization, "org_")] {
        assert!(id.is_empty() || (id.starts_with(prefix) && id.len() <= LONGEST), "{id}");
    }
}

/// The services of a replica that cannot reach its database.
struct Asked {
    api: Api,
    admin: AdminApi,
    runtime: Runtime,
}

impl Asked {
    fn block<T>(&self, call: impl Future<Output = T>) -> T {
        self.runtime.block_on(call)
    }
}

fn asked() -> &'static Asked {
    static ASKED: OnceLock<Asked> = OnceLock::new();
    ASKED.get_or_init(|| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let inside = runtime.enter();
        let nowhere = "postgres://nobody@localhost/nothing?host=/nowhere".parse().unwrap();
        let (store, metrics) = (Store::new(nowhere), Arc::new(Metrics::default()));
        let (hour, moment) = (Duration::from_hours(1), Duration::from_millis(1));
        let accounts = Accounts::new(store.clone(), 1 << 20, hour, moment, metrics.clone());
        let accounts = Arc::new(accounts);
        let api =
            Api::new(Arc::new(Checks::new(accounts.clone(), Grace::default(), &metrics, None)));
        let admin = AdminApi::new(Arc::new(Deliveries::new(
            store,
            accounts,
            ServedInstance::default(),
            metrics,
        )));
        drop(inside);
        Asked { api, admin, runtime }
    })
}

/// A catalog, as TOML or as JSON: what is read is written in one form, which reads back as the same.
pub fn catalog(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for read in [Catalog::from_toml(text), Catalog::from_json(text)] {
        let Ok(catalog) = read else { continue };
        let json = catalog.to_json();
        let again = Catalog::from_json(&json).expect("what was written can be read");
        assert_eq!((&again, again.to_json()), (&catalog, json));
        assert_eq!(catalog.clone().over(Catalog::default(), &PlanNames::default()), catalog);
        assert_eq!(catalog.clone().over(catalog.clone(), &PlanNames::default()), catalog);
    }
}

/// A revision token: what is read says of a subject what a token made of it says.
pub fn revision(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(revision) = text.parse::<Revision>() else { return };
    let subject: Subject = "user_ada".parse().unwrap();
    let known = revision.of(subject.id());
    let again = Revision::token(revision.catalog, [(&subject, known)]).parse::<Revision>().unwrap();
    assert_eq!((again.catalog, again.of(subject.id())), (revision.catalog, known));
    let two = Revision::token(revision.catalog, [(&subject, known), (&subject, 0)]);
    assert_eq!(two.parse::<Revision>().unwrap().of(subject.id()), known, "the first one counts");
}
