//! Compares the signed-in user with that of Clerk's own backend SDK.
//!
//! `tests/sessions/generate.mjs` called the `authenticateRequest` of npm's `@clerk/backend`, and its output is
//! committed: the tokens of `tests/sessions/tokens.json`, then 2,000 requests made of random parts. Each is rebuilt
//! here with the current time and another key. A difference must be one of those listed in [`Difference`].

use crate::{
    support::database::Db,
    support::gateway_requests::{Request, SignedIn, by_metadata},
    support::service::{Replica, config},
    support::session_signer::{Signer, message},
};
use chrono::Utc;
use entitlements::{
    clerk::{Instance, Rules, TrustedClaims},
    config::SessionConfig,
};
use insta::assert_snapshot;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Cases {
    settings: Vec<Setting>,
    cases: Vec<Case>,
}

/// An instance, and the SDK's settings for it.
#[derive(Clone, Deserialize)]
struct Setting {
    /// The publishable key.
    key: String,
    iss: String,
    parties: Vec<String>,
    issuers: Vec<String>,
}

/// A request, and the SDK's result.
#[derive(Debug, Deserialize)]
struct Case {
    /// The index of the setting.
    s: usize,
    /// The tokens that the fields refer to, as `<0>`.
    t: Vec<Minted>,
    /// The `Authorization` fields.
    a: Vec<String>,
    /// The `Cookie` fields.
    k: Vec<String>,
    /// The user and the organization.
    r#in: Option<(Value, Value)>,
    /// The reason why no user is signed in.
    out: Option<String>,
}

/// A token, as differences from a plain one.
#[derive(Debug, Deserialize)]
struct Minted {
    #[serde(default)]
    h: Map<String, Value>,
    #[serde(default)]
    c: Map<String, Value>,
    /// All claims, instead of differences.
    only: Option<Map<String, Value>>,
    /// The signing key, if not the instance's own.
    k: Option<String>,
}

/// The reasons why an answer that differs from the SDK's is right.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    /// The SDK accepts any text as a user. Accounts belong to Clerk's users, whose ids begin with `user_`.
    SubjectIsNotAUser,
    /// The SDK accepts any text as an organization's id, where this service requires `org_…`.
    OrganizationIsNotOne,
    /// The SDK treats an `o` that is not an object as a missing organization, so the user would pass with their own
    /// plans. Clerk issues no such token, and its meaning is unknown.
    OrganizationIsNotAnObject,
    /// Only without a publishable key: where a request has no `__client_uat`, its `__session` counts. The SDK would
    /// redirect the browser to find out. A gateway cannot, and a gateway that forwards only `__session` would never
    /// pass.
    SessionCountsAlone,
    /// Only without a publishable key: the service does not know whether an instance is for development, where cookies
    /// count only beside `__clerk_db_jwt`.
    DevelopmentIsNotKnown,
    /// Only without a publishable key and `CLERK_ISSUER`: the issuer is not known, so a token signed by this instance's
    /// key counts in `__session` with any issuer, as it does in the header.
    IssuerIsNotKnown,
    /// Only without a publishable key: a suffix is the instance's own if the instance has signed the session that
    /// came with it. If it came with another, it counts as another instance's, and the cookie without a suffix counts;
    /// the SDK would look at the other one alone. If it came with none, it counts only where that makes no difference.
    SuffixIsNotKnown,
}

impl Case {
    fn difference(&self, ours: &SignedIn, knows_instance: bool) -> Option<Difference> {
        let (user, organization) = match (&self.r#in, ours) {
            (None, Err(_)) => return None,
            (Some((user, organization)), Ok(ours)) => {
                let is_same =
                    *user == json!(ours.0) && organization.as_str().unwrap_or("") == ours.1;
                assert!(is_same, "{self:?}: {ours:?}");
                return None;
            }
            (None, Ok(_)) => return Some(self.looser(ours, knows_instance)),
            (Some((user, organization)), Err(_)) => (user, organization),
        };
        if !user.as_str().unwrap().starts_with("user_") {
            Some(Difference::SubjectIsNotAUser)
        } else if organization.as_str().is_some_and(|id| !id.starts_with("org_"))
            || organization.is_number()
        {
            Some(Difference::OrganizationIsNotOne)
        } else if self.t.iter().any(Minted::has_odd_organization) {
            Some(Difference::OrganizationIsNotAnObject)
        } else if !knows_instance {
            Some(Difference::SuffixIsNotKnown)
        } else {
            panic!("{self:?}: {ours:?}")
        }
    }

    fn looser(&self, ours: &SignedIn, knows_instance: bool) -> Difference {
        let has_uat = self.k.iter().any(|cookies| cookies.contains("__client_uat"));
        match self.out.as_deref().unwrap() {
            _ if knows_instance => panic!("{self:?}: {ours:?}"),
            "session-token-but-no-client-uat" if !has_uat => Difference::SessionCountsAlone,
            "dev-browser-missing" => Difference::DevelopmentIsNotKnown,
            _ if self.has_unsigned_suffix() => Difference::SuffixIsNotKnown,
            _ if self.t.iter().any(|token| token.c.contains_key("iss")) => {
                Difference::IssuerIsNotKnown
            }
            _ => panic!("{self:?}: {ours:?}"),
        }
    }

    /// Whether a session cookie with a suffix contains a token that this instance has not signed.
    fn has_unsigned_suffix(&self) -> bool {
        let cookies = self.k.iter().flat_map(|cookies| cookies.split(';'));
        let mut suffixed = cookies.filter_map(|cookie| {
            let (name, value) = cookie.trim().split_once('=')?;
            name.starts_with("__session_").then_some(value)
        });
        suffixed.any(|value| {
            let n = value.strip_prefix('<').and_then(|n| n.strip_suffix('>'));
            let token = n.and_then(|n| self.t.get(n.parse::<usize>().unwrap()));
            token.is_none_or(|token| token.k.is_some() || token.h.contains_key("alg"))
        })
    }
}

/// Signers of the instance and of another one.
struct Signers {
    own: Signer,
    other: Signer,
}

impl Signers {
    fn new() -> Self {
        Self { own: Signer::new("ins_1"), other: Signer::new("ins_2") }
    }

    fn mint(&self, token: &Minted, iss: &str) -> String {
        let (header, claims) = token.parts(iss);
        let signer = if token.k.is_some() { &self.other } else { &self.own };
        match header["alg"].as_str() {
            Some("none") => format!("{}.", message(&header, &claims)),
            Some("HS256") => signer.sign_with_public_key(&header, &claims),
            _ => signer.sign(&header, &claims),
        }
    }

    fn request(&self, case: &Case, iss: &str) -> Request {
        let tokens: Vec<_> = case.t.iter().map(|token| self.mint(token, iss)).collect();
        let fill = |fields: &Vec<String>| {
            let filled = fields.iter().map(|field| {
                let mut field = with_times(field);
                for (n, token) in tokens.iter().enumerate() {
                    field = field.replace(&format!("<{n}>"), token);
                }
                field
            });
            filled.collect()
        };
        Request { authorization: fill(&case.a), cookies: fill(&case.k) }
    }
}

impl Minted {
    fn has_odd_organization(&self) -> bool {
        let claims = self.only.as_ref().unwrap_or(&self.c);
        claims.get("o").is_some_and(|o| !o.is_object() && !o.is_null() && *o != "absent")
    }

    /// The header and the claims.
    fn parts(&self, iss: &str) -> (Value, Value) {
        let header = json!({ "alg": "RS256", "kid": "ins_1", "typ": "JWT" });
        let claims = json!({
            "sub": "user_ada", "sid": "sess_1", "iat": "now+0", "nbf": "now-10", "exp": "now+60",
            "iss": iss, "azp": "https://app.example.com", "v": 2,
        });
        let claims = match &self.only {
            Some(only) => changed(json!({}), only),
            None => changed(claims, &self.c),
        };
        (changed(header, &self.h), claims)
    }
}

/// The object with these changes, and with times instead of texts such as `<now-30>`.
fn changed(mut object: Value, changes: &Map<String, Value>) -> Value {
    for (name, value) in changes {
        object[name] = value.clone();
    }
    let object = object.as_object_mut().unwrap();
    object.retain(|_, value| *value != "absent");
    for value in object.values_mut() {
        if let Some(ahead) = value.as_str().and_then(|text| text.strip_prefix("now")) {
            *value = json!(Utc::now().timestamp() + ahead.parse::<i64>().unwrap());
        }
    }
    json!(object)
}

/// The text with times instead of placeholders such as `<now-30>`.
fn with_times(text: &str) -> String {
    let mut pieces = text.split("<now");
    let first = pieces.next().unwrap().to_owned();
    pieces.fold(first, |so_far, piece| {
        let (ahead, rest) = piece.split_once('>').unwrap();
        let at = Utc::now().timestamp() + ahead.parse::<i64>().unwrap();
        format!("{so_far}{at}{rest}")
    })
}

fn cases() -> Cases {
    serde_json::from_str(include_str!("../../sessions/cases.json")).unwrap()
}

/// A replica with the settings of the SDK.
async fn replica(db: &Db, signers: &Signers, setting: &Setting, knows_instance: bool) -> Replica {
    let mut config = config(db);
    let rules = Rules {
        parties: setting.parties.clone(),
        issuers: setting.issuers.clone(),
        ..Rules::default()
    };
    let instance = knows_instance.then(|| Instance::of(&setting.key).unwrap());
    config.sessions = Some(SessionConfig { instance, ..signers.own.sessions(rules.clone()) });
    let (payload, header) = ("clerk".into(), Some("clerk_header".into()));
    config.trusted_claims = Some(TrustedClaims { payload, header, rules });
    Replica::start_with(config).await
}

/// Counts each difference and the signed-in users; a request's tokens are signed when it is sent.
async fn compare(
    knows_instance: bool,
    ask: impl AsyncFn(&Replica, &Signers, &Case, &str) -> Option<SignedIn>,
) -> (BTreeMap<Difference, usize>, [usize; 2]) {
    let (db, signers, all) = (Db::new().await, Signers::new(), cases());
    let (mut differences, mut counts) = (BTreeMap::new(), [0, 0]);
    for (s, setting) in all.settings.iter().enumerate() {
        let replica = replica(&db, &signers, setting, knows_instance).await;
        for case in all.cases.iter().filter(|case| case.s == s) {
            let Some(ours) = ask(&replica, &signers, case, &setting.iss).await else { continue };
            assert!(!ours.as_ref().is_err_and(|why| why.contains("eyJ")), "a token: {ours:?}");
            counts[usize::from(ours.is_ok())] += 1;
            if let Some(difference) = case.difference(&ours, knows_instance) {
                *differences.entry(difference).or_insert(0) += 1;
            }
        }
        replica.stop().await.unwrap();
    }
    eprintln!("{} refused, {} signed in, differences: {differences:?}", counts[0], counts[1]);
    (differences, counts)
}

#[tokio::test]
async fn the_signed_in_user_agrees_with_clerks_sdk() {
    let (differences, [refused, signed_in]) = compare(true, async |replica, signers, case, iss| {
        let request = signers.request(case, iss);
        let ours = request.by_http(replica).await;
        let raw = request.by_envoy(replica, true).await;
        assert_eq!(raw, ours, "{case:?}");
        assert_eq!(request.by_envoy(replica, false).await, ours, "{case:?}");
        Some(ours)
    })
    .await;
    assert!(refused > 1000 && signed_in > 1000, "{refused} refused, {signed_in} signed in");
    assert_snapshot!(
        format!("{differences:?}"),
        @"{SubjectIsNotAUser: 29, OrganizationIsNotOne: 22, OrganizationIsNotAnObject: 21}"
    );
}

#[tokio::test]
async fn without_the_publishable_key_only_the_listed_differences_occur() {
    let (differences, _) = compare(false, async |replica, signers, case, iss| {
        Some(signers.request(case, iss).by_http(replica).await)
    })
    .await;
    assert_snapshot!(
        format!("{differences:?}"),
        @"{SubjectIsNotAUser: 29, OrganizationIsNotOne: 22, OrganizationIsNotAnObject: 21, SessionCountsAlone: 5, DevelopmentIsNotKnown: 39, IssuerIsNotKnown: 5, SuffixIsNotKnown: 21}"
    );
}

#[tokio::test]
async fn claims_that_jwt_authn_has_verified_are_admitted_as_the_sdk_does() {
    let (differences, counts) = compare(true, async |replica, _, case, iss| {
        let ([authorization], [token]) = (&*case.a, &*case.t) else { return None };
        let (header, claims) = token.parts(iss);
        let is_verified = token.k.is_none() && header["alg"] == "RS256";
        if !is_verified || authorization != "Bearer <0>" {
            return None;
        }
        Some(by_metadata(replica, &claims, Some(&header)).await)
    })
    .await;
    assert!(counts[0] > 100 && counts[1] > 300, "{counts:?}");
    assert_snapshot!(
        format!("{differences:?}"),
        @"{SubjectIsNotAUser: 10, OrganizationIsNotOne: 9, OrganizationIsNotAnObject: 11}"
    );
}

#[test]
fn only_publishable_keys_in_clerks_format_are_accepted() {
    for key in [
        "pk_live_Y2xlcmsuZXhhbXBsZS5jb20k",
        "pk_test_aGFwcHktcGFuZGEtMTIuY2xlcmsuYWNjb3VudHMuZGV2JA==",
    ] {
        assert!(Instance::of(key).is_ok(), "{key}");
    }
    for key in [
        "",
        "sk_live_Y2xlcmsuZXhhbXBsZS5jb20k",
        "pk_live_",
        "pk_live_clerk.example.com",
        "pk_live_Y2xlcmsuZXhhbXBsZS5jb20",    // without `$`
        "pk_live_bG9jYWxob3N0JA",             // without a dot
        "pk_live_Y2xlcmsuZXhhbXBsZS5jb20kJA", // `$` twice
    ] {
        assert!(Instance::of(key).is_err(), "{key}");
    }
}
