//! Parses requests about overrides.

use crate::{
    api::{
        faults::{Faults, duration, instant},
        pb,
    },
    domain::{
        Actor, Amount, Effect, MAX_OVERRIDE_TEXT, OverrideId, OverrideNote, Slug, Subject, Until,
    },
    storage::{ChangeConditions, EndOverride, IdempotencyKey, NewOverride, OverrideFilter},
};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use prost::Message;
use sha2::{Digest, Sha256};
use std::{str::FromStr, time::Duration};
use tonic::Status;

/// The end of the year 9999, the last time of protobuf.
const LAST: DateTime<Utc> = DateTime::from_timestamp(253_402_300_799, 0).expect("it is in range");

/// A parsed request to set an override.
pub(super) struct ParsedSet {
    pub new: NewOverride,
    pub conditions: ChangeConditions,
    pub allow_unknown: bool,
}

impl ParsedSet {
    pub fn of(request: pb::SetOverrideRequest, caller: String) -> Result<Self, Status> {
        let mut faults = Faults::default();
        let key = key(&request, &mut faults);
        let given = request.r#override.unwrap_or_default();
        let subject = given.subject.parse::<Subject>();
        let subject = subject.map_err(|invalid| faults.add("override.subject", invalid)).ok();
        let if_revision = optional("if_revision", &request.if_revision, &mut faults);
        let effect = effect(&given, &mut faults);
        let from = time("override.starts_at", given.starts_at, &mut faults);
        let until = until(&given, &mut faults);
        let note = note(&given, &mut faults);
        let on_behalf_of = text("override.on_behalf_of", &given.on_behalf_of, false, &mut faults);
        let replaces = optional("override.replaces", &given.replaces, &mut faults);
        let set_by = Actor { caller, on_behalf_of };
        let (dry_run, allow_unknown) = (request.dry_run, request.allow_unknown);
        let new = subject.zip(effect).zip(until).map(|((subject, effect), until)| NewOverride {
            subject,
            effect,
            from,
            until,
            note,
            set_by,
            replaces,
            key,
        });
        let new = faults.none(new)?;
        Ok(Self { new, conditions: ChangeConditions { if_revision, dry_run }, allow_unknown })
    }
}

/// The key, with the digest of everything else that the request says.
fn key(request: &pb::SetOverrideRequest, faults: &mut Faults) -> Option<IdempotencyKey> {
    let key = text("idempotency_key", &request.idempotency_key, false, faults);
    let mut bound = pb::SetOverrideRequest { dry_run: false, ..request.clone() };
    if let Some(found) = &mut bound.r#override {
        // The fields of answers are ignored.
        *found = pb::Override {
            id: String::new(),
            set_by: String::new(),
            set_at: None,
            end: None,
            ..found.clone()
        };
    }
    let digest = Sha256::digest(bound.encode_to_vec()).to_vec();
    (!key.is_empty()).then_some(IdempotencyKey { key, digest })
}

fn effect(given: &pb::Override, faults: &mut Faults) -> Option<Effect> {
    use pb::r#override::{Effect as Given, Target};
    if given.effect.is_none() {
        faults.add("override.effect", "is required: `deny` or `grant`");
    }
    let (field, slug) = match &given.target {
        Some(Target::Feature(slug)) => ("override.feature", slug),
        Some(Target::Plan(slug)) => ("override.plan", slug),
        None => {
            faults.add("override.target", "is required: `feature` or `plan`");
            return None;
        }
    };
    let slug = slug.parse::<Slug>().map_err(|invalid| faults.add(field, invalid)).ok()?;
    let is_plan = matches!(given.target, Some(Target::Plan(_)));
    let number = match &given.effect {
        Some(Given::Deny(_)) if is_plan => return Some(Effect::DenyPlan(slug)),
        Some(Given::Deny(_)) => return Some(Effect::DenyFeature(slug)),
        Some(Given::Grant(grant)) => grant.number,
        None => return None,
    };
    if !is_plan {
        return Some(Effect::GrantFeature(slug, amount(number, faults)));
    }
    if number.is_some() {
        faults.add("override.grant", "must be without a number: a plan has its own limits");
    }
    Some(Effect::GrantPlan(slug))
}

fn amount(number: Option<pb::grant::Number>, faults: &mut Faults) -> Amount {
    use pb::grant::Number;
    match number {
        None => Amount::Plain,
        Some(Number::AtLeast(limit)) => Amount::AtLeast(stored("at_least", limit, faults)),
        Some(Number::Exactly(limit)) => Amount::Exactly(stored("exactly", limit, faults)),
        Some(Number::Unlimited(is_unlimited)) => {
            if !is_unlimited {
                faults.add("override.grant.unlimited", "must be true if present");
            }
            Amount::Unlimited
        }
    }
}

/// A limit that Postgres can store.
fn stored(field: &str, limit: u64, faults: &mut Faults) -> u64 {
    if i64::try_from(limit).is_err() {
        faults.add(&format!("override.grant.{field}"), "must be at most 9223372036854775807");
    }
    limit
}

fn until(given: &pb::Override, faults: &mut Faults) -> Option<Until> {
    match (given.permanent, time("override.expires_at", given.expires_at, faults)) {
        (true, None) if given.expires_at.is_none() => Some(Until::Forever),
        (false, Some(at)) => Some(Until::Instant(at)),
        (false, None) if given.expires_at.is_some() => None,
        (true, _) => {
            faults.add("override.permanent", "excludes `expires_at`: leave one of them out");
            None
        }
        (false, None) => {
            faults.add(
                "override.expires_at",
                "is required: say when the override ends, or say `permanent`",
            );
            None
        }
    }
}

fn note(given: &pb::Override, faults: &mut Faults) -> OverrideNote {
    OverrideNote {
        owner: text("override.owner", &given.owner, true, faults),
        reason: text("override.reason", &given.reason, true, faults),
        reference: text("override.reference", &given.reference, false, faults),
    }
}

/// A text that people wrote, without surrounding blanks.
fn text(field: &str, text: &str, is_required: bool, faults: &mut Faults) -> String {
    let text = text.trim();
    if is_required && text.is_empty() {
        faults.add(field, "is required");
    }
    if text.len() > MAX_OVERRIDE_TEXT || text.chars().any(is_layout) {
        let most = MAX_OVERRIDE_TEXT;
        faults.add(
            field,
            format!("must be one line of at most {most} bytes, without control characters"),
        );
    }
    text.to_owned()
}

/// Whether a character could make a text look like other output on a terminal.
fn is_layout(c: char) -> bool {
    let is_direction = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || is_direction || matches!(c, '\u{2028}' | '\u{2029}')
}

/// An instant in whole milliseconds.
fn time(
    field: &str,
    at: Option<prost_types::Timestamp>,
    faults: &mut Faults,
) -> Option<DateTime<Utc>> {
    instant(field, at, faults).map(|at| at.trunc_subsecs(3))
}

/// A text that may be empty.
fn optional<T: FromStr<Err: std::fmt::Display>>(
    field: &str,
    text: &str,
    faults: &mut Faults,
) -> Option<T> {
    if text.is_empty() {
        return None;
    }
    text.parse().map_err(|invalid| faults.add(field, invalid)).ok()
}

/// Parses a request to end an override.
pub(super) fn end(
    request: &pb::EndOverrideRequest,
    caller: String,
) -> Result<(EndOverride, ChangeConditions), Status> {
    let mut faults = Faults::default();
    let id = request.id.parse::<OverrideId>();
    let id = id.map_err(|invalid| faults.add("id", invalid)).ok();
    let reason = text("reason", &request.reason, true, &mut faults);
    let on_behalf_of = text("on_behalf_of", &request.on_behalf_of, false, &mut faults);
    let if_revision = optional("if_revision", &request.if_revision, &mut faults);
    let by = Actor { caller, on_behalf_of };
    let id = faults.none(id)?;
    let conditions = ChangeConditions { if_revision, dry_run: request.dry_run };
    Ok((EndOverride { id, by, reason }, conditions))
}

/// Parses which overrides a request selects.
pub(super) fn filter(request: &pb::ListOverridesRequest, faults: &mut Faults) -> OverrideFilter {
    let owner = text("owner", &request.owner, false, faults);
    let within = duration("expiring_within", request.expiring_within, faults);
    OverrideFilter {
        id: None,
        subject: optional("subject", &request.subject, faults),
        feature: optional("feature", &request.feature, faults),
        plan: optional("plan", &request.plan, faults),
        owner: Some(owner).filter(|owner| !owner.is_empty()),
        expires_until: within.map(from_now),
        with_ended: request.include_ended,
    }
}

/// The instant after this time, at most the end of the year 9999.
fn from_now(within: Duration) -> DateTime<Utc> {
    let within = TimeDelta::from_std(within).unwrap_or(TimeDelta::MAX);
    let at = Utc::now().checked_add_signed(within).unwrap_or(DateTime::<Utc>::MAX_UTC);
    at.min(LAST)
}

/// Parses a page token: the id of the last override of the previous page.
pub(super) fn page_token(token: &str, faults: &mut Faults) -> Option<OverrideId> {
    if token.is_empty() {
        return None;
    }
    let invalid = "is not a valid page token: send a `next_page_token` unchanged";
    token.parse().map_err(|_| faults.add("page_token", invalid)).ok()
}
