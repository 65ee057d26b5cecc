//! Properties of the parsers for arbitrary bytes. The fuzz targets run them on generated input, and
//! `tests/it/ingest/fuzz_corpus.rs` on the files in `corpus/`.

use chrono::{DateTime, Utc};
use entitlements::{
    api::{
        AdminApi, EntitlementsApi,
        pb::{self, admin_server::Admin, entitlements_server::Entitlements},
    },
    check::Evaluator,
    clerk::{self, SignatureError, SigningSecret, Verified, Verifier},
    domain::{
        Catalog, ObservedItem, Parsed, PlanNames, Revision, Subject, SubjectRef, SubscriptionUpdate,
    },
    ingest::{Deliveries, ServedInstance},
    replica::Accounts,
    storage::Store,
    telemetry::Telemetry,
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

/// An upper bound for the length of texts that are stored or logged.
const LONGEST: usize = 128;

/// A webhook's body: the parsed values are short, storable and possible, and parsing it again at the same time gives
/// the same result.
pub fn webhook(body: &[u8]) {
    let now: DateTime<Utc> = "2026-11-23T00:00:00Z".parse().unwrap();
    let event = clerk::read(body, None, now);
    assert_eq!(event, clerk::read(body, None, now));
    for text in [&event.event, &event.instance].into_iter().flatten() {
        assert_storable(text);
    }
    if let Some(subject) = &event.subject {
        assert_subject(subject);
    }
    let latest = now + chrono::Duration::hours(24);
    assert!(event.sent_at.is_none_or(|at| at <= latest));
    match &event.parsed {
        Parsed::Ignored(why) | Parsed::Parked(why) | Parsed::Foreign(why) => {
            assert!(!why.is_empty() && why.len() < 1024 && !why.contains('\0'), "{why}");
        }
        Parsed::Update(SubscriptionUpdate::Deleted { subject, at }) => {
            assert_subject(subject);
            assert!(*at <= latest);
        }
        Parsed::Update(SubscriptionUpdate::Items { subject, items, snapshot, .. }) => {
            assert_eq!(event.subject.as_ref(), Some(subject));
            for item in items {
                assert_item(item, latest);
            }
            let mut ids: Vec<_> = items.iter().map(|version| &version.item.id).collect();
            ids.sort();
            ids.dedup();
            assert_eq!(ids.len(), items.len(), "an item is listed twice");
            for id in snapshot.iter().flat_map(|s| s.listed.iter().flatten()) {
                assert!(ids.binary_search(&id).is_ok(), "{id} is listed without an item");
            }
        }
    }
}

fn assert_item(ObservedItem { item, sent_at, .. }: &ObservedItem, latest: DateTime<Utc>) {
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
    assert_eq!(
        SubjectRef::of(subject.kind(), subject.as_str()).map(SubjectRef::as_str),
        Ok(subject.as_str())
    );
}

fn assert_storable(text: &str) {
    assert!(!text.is_empty() && text.len() <= LONGEST && !text.contains('\0'), "{text:?}");
}

/// The head and body of a delivery: lines of `name: value`, an empty line, the body. The timestamp `NOW` is replaced by
/// the current time and the signature `SIGN` by the valid one, so that well-formed deliveries verify. No other one
/// does.
pub fn headers(bytes: &[u8]) {
    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let secret = || SigningSecret::parse(&SECRET.to_owned().into()).unwrap();
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
            assert!(is_signed, "the signature is invalid");
            assert_eq!(Some(&found), id.as_ref());
            assert!((1..=LONGEST).contains(&found.len()));
            assert!(found.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)));
            assert!(at.is_some_and(|at| now.abs_diff(at) <= 301), "{at:?} is not now");
        }
        Err(SignatureError::Malformed(why) | SignatureError::Unverified(why)) => {
            assert!(!why.is_empty() && why.len() < 256 && !why.contains(&SECRET[6..]));
        }
    }
}

/// A request to the method that the first byte selects. The service has not reached its database, so a valid request
/// fails with UNAVAILABLE, and an invalid one with its field violations.
pub fn request(bytes: &[u8]) {
    let Some((method, bytes)) = bytes.split_first() else { return };
    let services = services();
    match method % 7 {
        0 => call(
            bytes,
            |r| services.block(services.api.check_feature(r)),
            |r: &pb::CheckFeatureRequest| {
                assert_ids(&r.user_id, &r.organization_id);
                assert!(!r.feature.is_empty());
            },
        ),
        1 => call(
            bytes,
            |r| services.block(services.api.check_features(r)),
            |r: &pb::CheckFeaturesRequest| {
                assert!((1..=100).contains(&r.questions.len()));
                r.questions.iter().for_each(|q| assert_ids(&q.user_id, &q.organization_id));
            },
        ),
        2 => call(
            bytes,
            |r| services.block(services.api.check_plan(r)),
            |r: &pb::CheckPlanRequest| {
                assert_ids(&r.user_id, &r.organization_id);
            },
        ),
        3 => call(
            bytes,
            |r| services.block(services.api.list_entitlements(r)),
            |r: &pb::ListEntitlementsRequest| {
                assert_ids(&r.user_id, &r.organization_id);
            },
        ),
        4 => call(
            bytes,
            |r| services.block(services.admin.list_deliveries(r)),
            |r: &pb::ListDeliveriesRequest| {
                assert!(r.page_size <= 1000);
            },
        ),
        5 => call(
            bytes,
            |r| services.block(services.admin.replay_deliveries(r)),
            |r: &pb::ReplayDeliveriesRequest| {
                assert!(r.page_size <= 1000);
            },
        ),
        _ => call(
            bytes,
            |r| services.block(services.admin.get_delivery(r)),
            |_: &pb::GetDeliveryRequest| {},
        ),
    }
}

/// Sends a request; `meant` checks a request that the service did not reject as invalid.
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
struct Services {
    api: EntitlementsApi,
    admin: AdminApi,
    runtime: Runtime,
}

impl Services {
    fn block<T>(&self, call: impl Future<Output = T>) -> T {
        self.runtime.block_on(call)
    }
}

fn services() -> &'static Services {
    static SERVICES: OnceLock<Services> = OnceLock::new();
    SERVICES.get_or_init(|| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let inside = runtime.enter();
        let nowhere = "postgres://nobody@localhost/nothing?host=/nowhere".parse().unwrap();
        let (store, telemetry) = (Store::new(nowhere), Telemetry::default());
        let (hour, evaluation) = (Duration::from_hours(1), Duration::from_millis(1));
        let accounts = Accounts::new(store.clone(), 1 << 20, hour, evaluation, telemetry.clone());
        let accounts = Arc::new(accounts);
        let api = EntitlementsApi::new(Arc::new(Evaluator::new(
            accounts.clone(),
            &telemetry.metrics,
            None,
        )));
        let admin = AdminApi::new(Arc::new(Deliveries::new(
            store,
            accounts,
            ServedInstance::default(),
            telemetry,
        )));
        drop(inside);
        Services { api, admin, runtime }
    })
}

/// A catalog in TOML or JSON: a parsed catalog has a canonical text, which parses to an equal catalog.
pub fn catalog(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for read in [Catalog::from_toml(text), Catalog::from_json(text)] {
        let Ok(catalog) = read else { continue };
        let json = catalog.to_json();
        let again = Catalog::from_json(&json).expect("what was written can be read");
        assert_eq!((&again, again.to_json()), (&catalog, json));
        assert_eq!(catalog.clone().overlaid_on(Catalog::default(), &PlanNames::default()), catalog);
        assert_eq!(catalog.clone().overlaid_on(catalog.clone(), &PlanNames::default()), catalog);
    }
}

/// A revision token: after formatting and parsing, it has the same revision of a subject.
pub fn revision(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(revision) = text.parse::<Revision>() else { return };
    let subject: Subject = "user_ada".parse().unwrap();
    let known = revision.of(subject.id()).unwrap_or(0);
    let again = Revision::token(revision.catalog, [(&subject, known)]).parse::<Revision>().unwrap();
    assert_eq!((again.catalog, again.of(subject.id())), (revision.catalog, Some(known)));
    let two = Revision::token(revision.catalog, [(&subject, known), (&subject, 0)]);
    assert_eq!(
        two.parse::<Revision>().unwrap().of(subject.id()),
        Some(known),
        "the first one counts"
    );
}
