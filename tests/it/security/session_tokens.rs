//! The user that a request's credentials sign in: credentials in each of their forms, and claims that must not count.
//!
//! Each case is sent over HTTP and over gRPC; `clerk_sdk_sessions.rs` compares many more requests with Clerk's own SDK.

use crate::{
    support::database::Db,
    support::gateway_requests::{Request, SignedIn, by_metadata},
    support::service::{ACME, ADA, GRACE, Replica, config},
    support::session_signer::{Publisher, Signer},
};
use chrono::Utc;
use entitlements::{
    clerk::{Instance, Rules, TrustedClaims},
    config::{KeySource, SessionConfig},
};
use serde_json::{Value, json};

const APP: &str = "https://app.example.com";
/// The publishable key of `clerk.example.com`, the issuer in [`Signer::token`]. Its cookies end with [`SUFFIX`].
const PUBLISHABLE_KEY: &str = "pk_live_Y2xlcmsuZXhhbXBsZS5jb20k";
const SUFFIX: &str = "naoXFJnI";
const TEMPLATE: &str = "cl_B7d4PD222AAA";

async fn replica(db: &Db, signer: &Signer, rules: Rules, header: Option<&str>) -> Replica {
    with(db, KeySource::Pem(signer.pem()), rules, header, None).await
}

async fn with(
    db: &Db,
    keys: KeySource,
    rules: Rules,
    header: Option<&str>,
    instance: Option<Instance>,
) -> Replica {
    let mut config = config(db);
    config.sessions = Some(SessionConfig { keys, rules: rules.clone(), instance });
    let (payload, header) = ("clerk".into(), header.map(str::to_owned));
    config.trusted_claims = Some(TrustedClaims { payload, header, rules });
    Replica::start_with(config).await
}

/// Asks as every gateway does, and checks that all get the same response.
async fn ask(replica: &Replica, authorization: &[&str], cookies: &[&str]) -> SignedIn {
    let request = Request::of(authorization, cookies);
    let found = request.by_http(replica).await;
    for is_raw in [true, false] {
        assert_eq!(request.by_envoy(replica, is_raw).await, found, "{authorization:?} {cookies:?}");
    }
    found
}

#[expect(clippy::unnecessary_wraps, reason = "it is compared with what is seen")]
fn user(user: &str) -> SignedIn {
    Ok((user.into(), String::new()))
}

#[track_caller]
fn check(name: &str, found: &SignedIn, expected: Result<&str, &str>) {
    match (found, expected) {
        (Ok((user, organization)), Ok(expected)) => {
            let found = format!("{user} {organization}");
            assert_eq!(found.trim(), expected, "{name}");
        }
        (Err(why), Err(expected)) => assert!(why.contains(expected), "{name}: {why}"),
        _ => panic!("{name}: {found:?} instead of {expected:?}"),
    }
}

#[tokio::test]
async fn an_authorization_of_another_scheme_does_not_hide_the_cookie() {
    let (db, signer) = (Db::new().await, Signer::new("ins_1"));
    let replica = replica(&db, &signer, Rules::default(), None).await;
    let cookie = format!("__session={}", signer.token(ADA, &json!({})));
    let lower = format!("bearer {}", signer.token(GRACE, &json!({})));
    for other in ["Basic dXNlcjpwYXNz", "Digest username=\"a\"", "Token abc", "", &lower] {
        assert_eq!(ask(&replica, &[other], &[&cookie]).await, user(ADA), "{other}");
    }
    assert_eq!(ask(&replica, &["Basic a", "Digest b"], &[&cookie]).await, user(ADA));
    // There is no cookie to fall back to.
    check("alone", &ask(&replica, &["Basic a"], &[]).await, Err("no session token"));
}

#[tokio::test]
async fn a_token_without_a_scheme_counts_and_hides_the_cookie() {
    let (db, signer) = (Db::new().await, Signer::new("ins_1"));
    let replica = replica(&db, &signer, Rules::default(), None).await;
    let (ada, cookie) =
        (signer.token(ADA, &json!({})), format!("__session={}", signer.token(GRACE, &json!({}))));
    assert_eq!(ask(&replica, &[&ada], &[]).await, user(ADA));
    assert_eq!(ask(&replica, &[&ada], &[&cookie]).await, user(ADA));
    assert_eq!(ask(&replica, &[&format!(" {ada} ")], &[&cookie]).await, user(ADA));
    for broken in ["Bearer", "nonsense", "Bearer nonsense", "Bearer  two-spaces"] {
        let found = ask(&replica, &[broken], &[&cookie]).await;
        check(broken, &found, Err("401"));
    }
}

#[tokio::test]
async fn several_cookie_fields_are_read_as_one() {
    let (db, signer) = (Db::new().await, Signer::new("ins_1"));
    let replica = replica(&db, &signer, Rules::default(), None).await;
    let now = Utc::now().timestamp();
    let session = format!("__session={}", signer.token(ADA, &json!({})));
    let other = format!("__session={}", signer.token(GRACE, &json!({})));
    let (past, out) = (format!("__client_uat={}", now - 60), "__client_uat=0");
    for (name, cookies, expected) in [
        ("in the second", vec!["a=b", &*session], Ok(ADA)),
        ("in the third", vec!["a=b", "c=d; e", &*session], Ok(ADA)),
        ("split", vec![&*past, &*session], Ok(ADA)),
        ("split, and signed out", vec![out, &*session], Err("__client_uat")),
        ("split, the other way round", vec![&*session, out], Err("__client_uat")),
        ("twice: the first counts", vec![&*session, &*other], Ok(ADA)),
    ] {
        check(name, &ask(&replica, &[], &cookies).await, expected);
    }
    // The byte that is not UTF-8 belongs to another cookie. Protobuf carries only text, except in raw headers.
    let request = Request::of(&[], &[&format!("theme=\u{fc}; {session}")]);
    assert_eq!(request.by_http(&replica).await, user(ADA));
    assert_eq!(request.by_envoy(&replica, true).await, user(ADA));
}

#[tokio::test]
async fn a_token_of_another_category_is_not_a_session() {
    let (db, signer) = (Db::new().await, Signer::new("ins_1"));
    let replica = replica(&db, &signer, Rules::default(), Some("clerk_header")).await;
    let now = Utc::now().timestamp();
    let claims = json!({ "sub": ADA, "exp": now + 60, "org_id": ACME });
    let as_ada = format!("{ADA} {ACME}");
    for (cat, expected) in [
        (json!("cl_B7d4PD111AAA"), Ok(&*as_ada)),
        (json!("cl_I7d4PD111III"), Ok(&*as_ada)),
        (json!(TEMPLATE), Err("`cat`")),
        (json!("cl_B7d4PD333AAA"), Err("`cat`")),
        (json!("cl_future"), Err("`cat`")),
        (json!(""), Err("`cat`")),
        (json!(null), Err("`cat`")),
        (json!(["cl_B7d4PD111AAA"]), Err("`cat`")),
    ] {
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": "ins_1", "cat": cat });
        let token = signer.sign(&header, &claims);
        let (bearer, cookie) = (format!("Bearer {token}"), format!("__session={token}"));
        check(&cat.to_string(), &ask(&replica, &[&bearer], &[]).await, expected);
        check(&cat.to_string(), &ask(&replica, &[], &[&cookie]).await, expected);
        check(&cat.to_string(), &by_metadata(&replica, &claims, Some(&header)).await, expected);
    }
    let found = by_metadata(&replica, &claims, None).await;
    check("no header", &found, Err("header_in_metadata"));
}

#[tokio::test]
async fn without_the_header_claims_of_jwt_authn_need_the_id_of_a_session() {
    let (db, signer) = (Db::new().await, Signer::new("ins_1"));
    let replica = replica(&db, &signer, Rules::default(), None).await;
    let now = Utc::now().timestamp();
    for (sid, expected) in [
        (json!("sess_1"), Ok(ADA)),
        (json!(""), Err("`sid`")),
        (json!(null), Err("`sid`")),
        (json!(5), Err("`sid`")),
    ] {
        let claims = json!({ "sub": ADA, "sid": sid, "exp": now + 60, "v": 2 });
        check(&sid.to_string(), &by_metadata(&replica, &claims, None).await, expected);
    }
    let template = json!({ "sub": ADA, "exp": now + 60, "org_id": ACME });
    check("template", &by_metadata(&replica, &template, None).await, Err("`sid`"));
}

/// Sends these claims in each way, and checks that the responses agree.
async fn claims(replica: &Replica, signer: &Signer, claims: &Value) -> SignedIn {
    let header = json!({ "alg": "RS256", "typ": "JWT", "kid": signer.kid });
    let token = signer.sign(&header, claims);
    let found = ask(replica, &[&format!("Bearer {token}")], &[]).await;
    let cookie = format!("__session={token}; __client_uat=1");
    assert_eq!(ask(replica, &[], &[&cookie]).await, found, "{claims}");
    assert_eq!(by_metadata(replica, claims, None).await, found, "{claims}");
    found
}

fn session(more: &Value) -> Value {
    let now = Utc::now().timestamp();
    let mut claims = json!({ "sub": ADA, "sid": "sess_1", "iat": now, "exp": now + 60, "v": 2 });
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

#[tokio::test]
async fn with_authorized_parties_a_token_must_name_one_of_them() {
    let (db, signer) = (Db::new().await, Signer::new("ins_1"));
    let rules = Rules { parties: vec![APP.into()], ..Rules::default() };
    let native = Rules { azp_may_be_missing: true, ..rules.clone() };
    let strict = replica(&db, &signer, rules, None).await;
    let native = replica(&db, &signer, native, None).await;
    for (azp, is_strictly, is_natively) in [
        (json!({ "azp": APP }), Ok(ADA), Ok(ADA)),
        (json!({}), Err("CLERK_ALLOW_MISSING_AZP"), Ok(ADA)),
        (json!({ "azp": null }), Err("CLERK_ALLOW_MISSING_AZP"), Ok(ADA)),
        (json!({ "azp": "" }), Err("not authorized"), Err("not authorized")),
        (json!({ "azp": [APP] }), Err("not authorized"), Err("not authorized")),
        (json!({ "azp": "https://evil.example" }), Err("not authorized"), Err("not authorized")),
    ] {
        let session_claims = session(&azp);
        check(&azp.to_string(), &claims(&strict, &signer, &session_claims).await, is_strictly);
        check(&azp.to_string(), &claims(&native, &signer, &session_claims).await, is_natively);
    }
}

#[tokio::test]
async fn the_version_decides_which_claims_name_the_organization() {
    let (db, signer) = (Db::new().await, Signer::new("ins_1"));
    let replica = replica(&db, &signer, Rules::default(), None).await;
    let in_acme = format!("{ADA} {ACME}");
    let (o, other) = (json!({ "id": ACME, "slg": "acme" }), "org_other");
    for (more, expected) in [
        (json!({ "o": o }), &*in_acme),
        (json!({ "o": o, "org_id": other }), &in_acme),
        (json!({ "org_id": other }), ADA),
        (json!({ "o": {}, "org_id": other }), ADA),
        (json!({ "o": null, "org_id": other }), ADA),
        (json!({ "v": 2.0, "o": o }), &in_acme),
        (json!({ "v": 1, "org_id": ACME }), &in_acme),
        (json!({ "v": 1, "o": { "id": other }, "org_id": ACME }), &in_acme),
        (json!({ "v": 1, "o": o }), ADA),
        (json!({ "v": null, "o": o }), ADA),
        (json!({ "v": "2", "o": o }), ADA),
        (json!({ "v": 3, "o": o, "org_id": null }), ADA),
    ] {
        let found = claims(&replica, &signer, &session(&more)).await;
        check(&more.to_string(), &found, Ok(expected));
    }
    for more in [json!({ "o": "acme" }), json!({ "o": { "id": 5 } }), json!({ "o": { "id": "a" } })]
    {
        check(&more.to_string(), &claims(&replica, &signer, &session(&more)).await, Err("401"));
    }
}

#[tokio::test]
async fn a_token_from_the_future_is_rejected_and_the_critical_header_is_ignored() {
    let (db, signer) = (Db::new().await, Signer::new("ins_1"));
    let replica = replica(&db, &signer, Rules::default(), None).await;
    let now = Utc::now().timestamp();
    for (iat, expected) in [
        (json!(now + 3), Ok(ADA)),
        (json!(now - 3600), Ok(ADA)),
        (json!(now + 60), Err("in the future")),
        (json!(now + 3600), Err("in the future")),
        (json!(now.to_string()), Err("malformed")),
        (json!(null), Err("malformed")),
    ] {
        let session_claims = session(&json!({ "iat": iat }));
        check(&iat.to_string(), &claims(&replica, &signer, &session_claims).await, expected);
    }
    // RFC 7515 requires that such a token is rejected. Clerk's SDK ignores the header, and Clerk issues no such token.
    for crit in [json!(["x"]), json!(["exp"]), json!([]), json!("x")] {
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": "ins_1", "crit": crit, "x": 1 });
        let token = signer.sign(&header, &session(&json!({})));
        assert_eq!(ask(&replica, &[&token], &[]).await, user(ADA), "{crit}");
    }
}

#[tokio::test]
async fn a_cookie_older_than_client_uat_does_not_count() {
    let (db, signer) = (Db::new().await, Signer::new("ins_1"));
    let replica = replica(&db, &signer, Rules::default(), None).await;
    let now = Utc::now().timestamp();
    let session = format!("__session={}", signer.token(ADA, &json!({ "iat": now - 10 })));
    let uat = |ahead: i64| format!("__client_uat={}", now + ahead);
    for (name, uat, expected) in [
        ("signed in before", uat(-600), Ok(ADA)),
        ("signed in just then", uat(-10), Ok(ADA)),
        ("signed out", "__client_uat=0".into(), Err("signed in")),
        ("signed in again", uat(-9), Err("older")),
        ("signed in later", uat(0), Err("older")),
        ("nonsense", "__client_uat=x".into(), Err("signed in")),
        ("only of others", format!("__client_uat_Ab3dEf9h={now}"), Err("signed in")),
        ("none", String::new(), Ok(ADA)),
        ("empty", "__client_uat=".into(), Err("signed in")),
    ] {
        let cookies = format!("{session}; {uat}");
        check(name, &ask(&replica, &[], &[&cookies]).await, expected);
    }
    // `client_uat` applies to cookies only.
    let bearer = session.replace("__session=", "Bearer ");
    assert_eq!(ask(&replica, &[&bearer], &["__client_uat=0"]).await, user(ADA));
}

#[tokio::test]
async fn the_cookies_of_two_users_are_chosen_as_clerk_chooses() {
    let (db, signer, stranger) = (Db::new().await, Signer::new("ins_1"), Signer::new("ins_2"));
    let keys = || KeySource::Pem(signer.pem());
    let instance = Some(Instance::of(PUBLISHABLE_KEY).unwrap());
    let known = with(&db, keys(), Rules::default(), None, instance).await;
    let unknown = with(&db, keys(), Rules::default(), None, None).await;
    let now = Utc::now().timestamp();
    let at = |user, ago: i64, more: Value| {
        let mut claims = json!({ "iat": now - ago });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        signer.token(user, &claims)
    };
    let (new, old) = (at(ADA, 5, json!({})), at(GRACE, 30, json!({})));
    let (expired, pending) =
        (at(ADA, 5, json!({ "exp": now - 60 })), at(ADA, 5, json!({ "sts": "pending" })));
    let elsewhere = json!({ "iss": "https://clerk.other.example" });
    let elsewhere = stranger.token("user_eve", &elsewhere);
    for (name, plain, plain_uat, suffixed, suffixed_uat, expected) in [
        ("the newer has a suffix", &old, "1", &new, "1", Ok(ADA)),
        ("the newer has none", &new, "1", &old, "1", Ok(ADA)),
        ("equally new", &new, "1", &new, "1", Ok(ADA)),
        ("signed out with suffix", &old, "1", &new, "0", Ok(GRACE)),
        ("signed out without", &new, "0", &old, "1", Ok(GRACE)),
        ("signed out of both", &new, "0", &old, "0", Err("signed in")),
        ("the suffixed is pending", &old, "1", &pending, "1", Err("pending")),
        ("the suffixed has expired", &old, "1", &expired, "1", Err("expired")),
        ("the other is another instance's", &elsewhere, "1", &new, "1", Ok(ADA)),
    ] {
        let cookies = format!(
            "__session={plain}; __client_uat={plain_uat}; __session_{SUFFIX}={suffixed}; \
             __client_uat_{SUFFIX}={suffixed_uat}"
        );
        check(name, &ask(&known, &[], &[&cookies]).await, expected);
        check(name, &ask(&unknown, &[], &[&cookies]).await, expected);
    }
    // Another suffix belongs to another instance, even with a valid token. Without the publishable key this is unknown.
    let cookies = format!(
        "__session_Ab3dEf9h={old}; __client_uat_Ab3dEf9h=1; __session_{SUFFIX}={new}; \
         __client_uat_{SUFFIX}=1"
    );
    assert_eq!(ask(&known, &[], &[&cookies]).await, user(ADA));
    check("two", &ask(&unknown, &[], &[&cookies]).await, Err("CLERK_PUBLISHABLE_KEY"));
}

#[tokio::test]
async fn few_cookies_are_tried_unless_the_suffix_is_known() {
    let (db, signer) = (Db::new().await, Signer::new("ins_1"));
    let keys = || KeySource::Pem(signer.pem());
    let instance = Some(Instance::of(PUBLISHABLE_KEY).unwrap());
    let known = with(&db, keys(), Rules::default(), None, instance).await;
    let unknown = with(&db, keys(), Rules::default(), None, None).await;
    let forged = Signer::new("ins_1").token(ADA, &json!({}));
    let mut cookies: Vec<_> = (0..4).map(|n| format!("__session_forged_{n}={forged}")).collect();
    cookies.push(format!("__session_{SUFFIX}={}", signer.token(ADA, &json!({}))));
    cookies.push(format!("__client_uat_{SUFFIX}=1"));
    let cookies = cookies.join("; ");
    assert_eq!(ask(&known, &[], &[&cookies]).await, user(ADA));
    check("the fifth", &ask(&unknown, &[], &[&cookies]).await, Err("no session token"));
}

/// Clerk's SDK once cached keys by `kid` alone, so in a process with two instances the key of one verified the tokens
/// of the other.
#[tokio::test]
async fn a_key_of_one_instance_verifies_no_token_of_another_instance_with_the_same_kid() {
    let db = Db::new().await;
    let (one, two) = (Signer::new("ins_1"), Signer::new("ins_1"));
    let publishers = [Publisher::of(&[&one]).await, Publisher::of(&[&two]).await];
    let keys = |n: usize| KeySource::Url(publishers[n].url.clone());
    let rules = Rules { issuers: vec!["https://clerk.example.com".into()], ..Rules::default() };
    let replicas = [
        with(&db, keys(0), Rules::default(), None, None).await,
        with(&db, keys(1), rules, None, None).await,
    ];
    let tokens = [one.token(ADA, &json!({})), two.token(GRACE, &json!({}))];
    for _ in 0..2 {
        assert_eq!(ask(&replicas[0], &[&tokens[0]], &[]).await, user(ADA));
        assert_eq!(ask(&replicas[1], &[&tokens[1]], &[]).await, user(GRACE));
        check("one", &ask(&replicas[0], &[&tokens[1]], &[]).await, Err("signature"));
        check("two", &ask(&replicas[1], &[&tokens[0]], &[]).await, Err("signature"));
    }
    let elsewhere = json!({ "iss": "https://clerk.other.example" });
    let elsewhere = two.token(GRACE, &elsewhere);
    check("iss", &ask(&replicas[1], &[&elsewhere], &[]).await, Err("another Clerk instance"));
}
