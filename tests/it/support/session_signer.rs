//! Session tokens as Clerk signs them, and forged ones.

use aws_lc_rs::{
    encoding::AsDer,
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use chrono::Utc;
use entitlements::{
    clerk::Rules,
    config::{KeySource, SessionConfig},
};
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{net::TcpListener, sync::Notify};

/// The signing key of a Clerk instance.
pub struct Signer {
    pair: RsaKeyPair,
    pub kid: String,
}

impl Signer {
    pub fn new(kid: &str) -> Self {
        Self { pair: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(), kid: kid.into() }
    }

    /// The settings that accept this signer's tokens.
    pub fn sessions(&self, rules: Rules) -> SessionConfig {
        SessionConfig { keys: KeySource::Pem(self.pem()), rules, instance: None }
    }

    /// The public key as Clerk's dashboard shows it.
    pub fn pem(&self) -> String {
        let der = self.pair.public_key().as_der().unwrap();
        let text = STANDARD.encode(der.as_ref());
        let lines = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap());
        let lines: Vec<_> = lines.collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    pub fn jwk(&self) -> Value {
        let key = self.pair.public_key();
        let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({
            "kty": "RSA", "alg": "RS256", "use": "sig", "kid": self.kid,
            "n": number(key.modulus().big_endian_without_leading_zero()),
            "e": number(key.exponent().big_endian_without_leading_zero()),
        })
    }

    /// Signs a token for this user that is valid now, with these claims besides the usual ones.
    pub fn token(&self, user: &str, more: &Value) -> String {
        let now = Utc::now().timestamp();
        let mut claims = json!({
            "azp": "https://app.example.com", "iss": "https://clerk.example.com", "sid": "sess_1",
            "sub": user, "iat": now, "nbf": now - 10, "exp": now + 60, "v": 2, "sts": "active",
        });
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        self.sign(&json!({ "alg": "RS256", "typ": "JWT", "kid": self.kid }), &claims)
    }

    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let mut signature = vec![0; self.pair.public_modulus_len()];
        let random = SystemRandom::new();
        self.pair.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Signs with HMAC and the public key as secret, as a forger does.
    pub fn sign_with_public_key(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.pem().as_bytes());
        let signature = hmac::sign(&key, message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The signed part of a token: header and claims.
pub fn message(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

/// A server that publishes an instance's keys, and counts the fetches.
pub struct Publisher {
    pub url: String,
    pub fetches: Arc<AtomicUsize>,
    answers: Arc<Mutex<Answers>>,
}

/// The responses of a publisher.
#[derive(Clone)]
enum Answers {
    Keys(Value),
    /// Status 502.
    Failure,
    Nothing,
    /// These keys, after the release.
    Held(Value, Arc<Notify>),
    /// Status 302 to a URL.
    Redirect(String),
    /// These keys, followed by some MiB of white space.
    Bloated(Value),
}

impl Publisher {
    /// The settings that accept tokens of the published keys.
    pub fn sessions(&self, rules: Rules) -> SessionConfig {
        SessionConfig { keys: KeySource::Url(self.url.clone()), rules, instance: None }
    }

    pub async fn of(signers: &[&Signer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/.well-known/jwks.json", listener.local_addr().unwrap());
        let answers = Arc::new(Mutex::new(Answers::Keys(key_set(signers))));
        let publisher = Self { url, fetches: Arc::default(), answers };
        let (fetches, answers) = (publisher.fetches.clone(), publisher.answers.clone());
        tokio::spawn(async move {
            loop {
                let (peer, _) = listener.accept().await.unwrap();
                let (fetches, answers) = (fetches.clone(), answers.clone());
                let answer = service_fn(move |_| {
                    fetches.fetch_add(1, Ordering::SeqCst);
                    answer(answers.lock().unwrap().clone())
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(peer), answer));
            }
        });
        publisher
    }

    /// Accepts requests from now on, and does not answer them.
    pub fn hang(&self) {
        *self.answers.lock().unwrap() = Answers::Nothing;
    }

    /// Accepts requests from now on, and answers them only after the release.
    pub fn hold(&self, signers: &[&Signer]) -> Arc<Notify> {
        let release = Arc::new(Notify::new());
        *self.answers.lock().unwrap() = Answers::Held(key_set(signers), release.clone());
        release
    }

    /// Answers 502 from now on.
    pub fn fail(&self) {
        *self.answers.lock().unwrap() = Answers::Failure;
    }

    /// Redirects all requests from now on.
    pub fn redirect(&self, url: &str) {
        *self.answers.lock().unwrap() = Answers::Redirect(url.into());
    }

    /// Answers with a body that is far too large from now on.
    pub fn bloat(&self, signers: &[&Signer]) {
        *self.answers.lock().unwrap() = Answers::Bloated(key_set(signers));
    }
}

fn key_set(signers: &[&Signer]) -> Value {
    let keys: Vec<_> = signers.iter().map(|signer| signer.jwk()).collect();
    json!({ "keys": keys })
}

async fn answer(answers: Answers) -> Result<Response<Full<Bytes>>, Infallible> {
    let answer = Response::builder();
    let answer = match answers {
        Answers::Keys(keys) => answer.body(keys.to_string()),
        Answers::Failure => answer.status(StatusCode::BAD_GATEWAY).body(String::new()),
        Answers::Nothing => pending().await,
        Answers::Held(keys, release) => {
            release.notified().await;
            answer.body(keys.to_string())
        }
        Answers::Redirect(url) => {
            answer.status(StatusCode::FOUND).header("location", url).body(String::new())
        }
        Answers::Bloated(keys) => answer.body(keys.to_string() + &" ".repeat(4 * 1024 * 1024)),
    };
    Ok(answer.unwrap().map(Full::from))
}
