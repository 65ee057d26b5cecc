//! An HTTP/1.1 client of the API listener.

use crate::{
    support::certificates::Authority,
    support::metrics::sample,
    support::service::{Replica, plain_http},
};
use reqwest::{Certificate, Client, Identity, Method, header::HeaderMap};
use serde_json::Value;

/// A response with its body parsed as JSON, or as text where it is not JSON.
#[derive(Debug)]
pub struct HttpAnswer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl HttpAnswer {
    /// The body without the instant of the check, which must be in this object of the body.
    pub fn timeless(&self, object: &str) -> Value {
        let mut body = self.body.clone();
        let explanation = body[object].as_object_mut().unwrap();
        assert!(explanation.remove("checkedAt").is_some(), "{self:?}");
        body
    }
}

impl HttpAnswer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}

/// Sends requests to one replica.
pub struct HttpClient {
    pub client: Client,
    pub base: String,
}

impl HttpClient {
    pub fn of(replica: &Replica) -> Self {
        Self { client: plain_http(), base: format!("http://{}", replica.bound.api) }
    }

    /// Connects by TLS, with this client certificate and its key, if any.
    pub fn by_tls(
        replica: &Replica,
        authority: &Authority,
        identity: Option<(String, String)>,
    ) -> Self {
        let trusted = Certificate::from_pem(authority.pem.as_bytes()).unwrap();
        let mut client = Client::builder().no_proxy().tls_certs_only([trusted]);
        if let Some((certificate, key)) = identity {
            client = client.identity(Identity::from_pem((certificate + &key).as_bytes()).unwrap());
        }
        let base = format!("https://localhost:{}", replica.bound.api.port());
        Self { client: client.build().unwrap(), base }
    }

    pub async fn post(&self, path: &str, body: impl ToString) -> HttpAnswer {
        self.ask(Method::POST, path, &[], body).await
    }

    /// Sends a request with these headers. A POST gets `content-type: application/json` unless the headers have a
    /// content type; an empty one removes it.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl ToString,
    ) -> HttpAnswer {
        let is_typed = headers.iter().any(|(name, _)| *name == "content-type");
        let is_post = method == Method::POST;
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if is_post && !is_typed {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers.iter().filter(|header| **header != ("content-type", "")) {
            request = request.header(*name, *value);
        }
        let response = request.body(body.to_string()).send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        HttpAnswer {
            status,
            headers,
            body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
        }
    }
}

/// The number of requests of a protocol with this result, from the metrics page.
pub async fn counted(replica: &Replica, protocol: &str, result: &str) -> u64 {
    let (_, metrics) = replica.get("/metrics").await;
    let name = format!(
        "entitlements_protocol_requests_total{{protocol=\"{protocol}\",result=\"{result}\"}}"
    );
    sample(&metrics, &name).unwrap_or(0)
}
