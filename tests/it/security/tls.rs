//! TLS on the listeners, client certificates, and replacing both without a restart.

use crate::{
    support::callers_file::CallersFile,
    support::certificates::{Authority, Name, connect_tls},
    support::database::Db,
    support::process::Process,
    support::raw_socket,
    support::service::{ADA, Replica, config, eventually, payload, plain_http},
    support::shell::{Shell, check_refused},
};
use entitlements::{
    api::pb::{
        CheckFeatureRequest, ListDeliveriesRequest, admin_client::AdminClient,
        entitlements_client::EntitlementsClient,
    },
    config::{Config, ListenerFiles},
    server::auth::Scope,
};
use futures_util::future::{join_all, join3};
use std::{fs, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs::default_provider,
        pki_types::{CertificateDer, pem::PemObject},
    },
};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

async fn check(channel: &Channel, key: Option<&str>) -> Result<bool, Status> {
    let mut request = Request::new(CheckFeatureRequest {
        user_id: ADA.into(),
        feature: "export".into(),
        ..Default::default()
    });
    if let Some(key) = key {
        request.metadata_mut().insert("authorization", key.parse().unwrap());
    }
    let answer = EntitlementsClient::new(channel.clone()).check_feature(request).await?;
    Ok(answer.into_inner().allowed)
}

/// The result of listing the ledger.
async fn look(channel: &Channel) -> Code {
    let request = ListDeliveriesRequest::default();
    let answer = AdminClient::new(channel.clone()).list_deliveries(request).await;
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// Starts a replica with TLS on gRPC, and waits until it serves.
async fn start(db: &Db, locks: ListenerFiles) -> Replica {
    let replica = Replica::launch(Config { listeners: locks, ..config(db) }).await;
    eventually("the replica is ready", async || replica.get("/readyz").await.0 == 200).await;
    replica
}

/// Makes a TLS handshake with these ALPN protocols.
async fn handshake(authority: &Authority, to: SocketAddr, offers: &[&str]) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = offers.iter().map(|name| name.as_bytes().to_vec()).collect();
    let io = TcpStream::connect(to).await.unwrap();
    let name = "localhost".try_into().unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, io).await.unwrap()
}

/// The certificate that the server presents on a new connection.
async fn shown(authority: &Authority, to: SocketAddr) -> Vec<u8> {
    let stream = handshake(authority, to, &["h2"]).await;
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// Longer than any deadline of the service.
const TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn grpc_is_served_by_tls_to_clients_that_trust_its_authority() {
    let (db, authority) = (Db::new().await, Authority::new());
    let api = Some(authority.listener());
    let replica = start(&db, ListenerFiles { api, ..ListenerFiles::default() }).await;
    replica.send(&payload("subscriptionItem.active")).await;
    let to = replica.bound.api;
    let trusting = connect_tls(to, authority.client(None)).await.unwrap();
    assert!(check(&trusting, None).await.unwrap());

    let untrusting = connect_tls(to, Authority::new().client(None)).await.unwrap_err();
    assert!(format!("{untrusting:?}").contains("InvalidCertificate"), "{untrusting:?}");
    assert_eq!(
        raw_socket::status(&raw_socket::exchange(to, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await),
        0
    );
    let plain = Endpoint::from_shared(format!("http://{to}")).unwrap().connect_lazy();
    assert!(check(&plain, None).await.is_err());
    drop((trusting, plain));
    replica.stop().await.unwrap();
}

#[tokio::test]
async fn client_certificates_are_callers_by_the_names_in_them() {
    let (db, authority, file) = (Db::new().await, Authority::new(), CallersFile::new());
    let key = file.create("backend", &[Scope::Check]);
    let text = fs::read_to_string(file.path()).unwrap();
    let text = text
        + "[certificates.\"spiffe://test/ops\"]\nscopes = ['check', 'admin']\n"
        + "[certificates.\"ops.test\"]\nscopes = ['admin']\n"
        + "[certificates.\"cn:Ops\"]\nscopes = ['admin']\n"
        + "[certificates.\"cn:Gone\"]\nscopes = []\n"
        + "[certificates.\"out.test\"]\nscopes = []\n";
    fs::write(file.path(), text).unwrap();
    let (api, client_ca) = (Some(authority.listener()), Some(authority.client_ca()));
    let replica = start(&db, ListenerFiles { api, client_ca, ..file.listeners() }).await;
    let to = replica.bound.api;
    let (allowed, refused) = (Code::Ok, Code::PermissionDenied);
    let spiffe = Name::Uri("spiffe://test/ops");
    for (names, may_check, may_look) in [
        (vec![Name::Uri("spiffe://test/billing")], allowed, refused),
        (vec![Name::Dns("any.test"), spiffe], allowed, allowed),
        (vec![Name::Dns("any.test"), Name::Dns("ops.test")], refused, allowed),
        (vec![Name::Common("Ops")], refused, allowed),
        (vec![Name::Common("Ops"), Name::Dns("any.test")], allowed, refused),
        (vec![Name::Dns("out.test")], refused, refused),
        // A listed name without scopes rejects the certificate, in any position.
        (vec![Name::Dns("OUT.test")], refused, refused),
        (vec![Name::Dns("ops.test"), Name::Dns("out.test")], refused, refused),
        (vec![Name::Dns("out.test"), Name::Uri("spiffe://test/ops")], refused, refused),
        (vec![Name::Dns("ops.test"), Name::Common("Gone")], refused, refused),
        // A common name does not match a name of another kind.
        (vec![Name::Common("spiffe://test/ops")], refused, refused),
        (vec![Name::Common("ops.test")], refused, refused),
        (vec![Name::Common("Ops.Test")], refused, refused),
        (vec![Name::Common("cn:Ops")], allowed, refused),
        (vec![Name::Common("spiffe://test/ops"), Name::Dns("any.test")], allowed, refused),
        (vec![], Code::Unauthenticated, Code::Unauthenticated),
    ] {
        let channel =
            connect_tls(to, authority.client(Some(authority.issue(&names)))).await.unwrap();
        let checked = check(&channel, None).await.map_or_else(|s| s.code(), |_| Code::Ok);
        assert_eq!((checked, look(&channel).await), (may_check, may_look), "{names:?}");
        assert!(
            check(&channel, Some(&key)).await.is_ok(),
            "{names:?}: a key that is presented counts"
        );
        let refused = check(&channel, Some("Bearer x")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{names:?}");
    }
    let nameless = connect_tls(to, authority.client(None)).await.unwrap();
    assert_eq!(check(&nameless, None).await.unwrap_err().code(), Code::Unauthenticated);
    assert!(check(&nameless, Some(&key)).await.is_ok());
    let health = tonic_health::pb::HealthCheckRequest::default();
    tonic_health::pb::health_client::HealthClient::new(nameless).check(health).await.unwrap();

    let stranger = Authority::new().issue(&[Name::Uri("spiffe://test/ops")]);
    let stranger = connect_tls(to, authority.client(Some(stranger))).await;
    let outcome = match stranger {
        Ok(channel) => check(&channel, Some(&key)).await.map_err(|status| status.code()),
        Err(_) => Err(Code::Unavailable),
    };
    assert!(
        outcome.is_err(),
        "a certificate of another authority ends the connection: {outcome:?}"
    );
}

#[tokio::test]
async fn certificates_are_replaced_without_a_restart_and_broken_ones_are_rejected() {
    let (db, authority) = (Db::new().await, Authority::new());
    authority.serve_as("first.test");
    let paths = ["cert.pem", "key.pem", "ca.pem"].map(|name| authority.path(name));
    let [cert, key, ca] = &paths;
    let names =
        ["ENTITLEMENTS_API_TLS_CERT", "ENTITLEMENTS_API_TLS_KEY", "ENTITLEMENTS_API_CLIENT_CA"];
    let variables: Vec<_> =
        names.into_iter().zip(paths.iter().map(|p| p.to_str().unwrap())).collect();
    let process = Process::start(&db.url, &variables).await;
    let to: SocketAddr = process.grpc.strip_prefix("http://").unwrap().parse().unwrap();
    let mine = || Some(authority.issue(&[Name::Uri("spiffe://test/billing")]));
    let open = connect_tls(to, authority.client(mine())).await.unwrap();
    assert_eq!(look(&open).await, Code::PermissionDenied, "certificates may check by default");
    let first = shown(&authority, to).await;

    authority.serve_as("second.test");
    eventually("another certificate is shown", async || shown(&authority, to).await != first).await;
    let second = shown(&authority, to).await;
    check(&open, None).await.expect("an open connection goes on");

    fs::write(cert, authority.issue(&[Name::Dns("localhost")]).0).unwrap();
    let occurrences = |words: &str| process.log().matches(words).count();
    let kept = "ENTITLEMENTS_API_TLS_CERT: reload failed";
    eventually("a certificate without its key is logged", async || occurrences(kept) > 0).await;
    fs::write(key, "nonsense").unwrap();
    eventually("a broken key is logged", async || occurrences("has no private key in PEM") > 0)
        .await;
    assert_eq!(shown(&authority, to).await, second);
    assert_eq!(occurrences("has no private key in PEM"), 1);

    let other = Authority::new();
    authority.serve_as("third.test");
    fs::write(ca, &other.pem).unwrap();
    eventually("certificates of the former authority are rejected", async || {
        match connect_tls(to, authority.client(mine())).await {
            Ok(channel) => check(&channel, None).await.is_err(),
            Err(_) => true,
        }
    })
    .await;
    let theirs = other.issue(&[Name::Uri("spiffe://test/billing")]);
    let theirs = connect_tls(to, authority.client(Some(theirs))).await.unwrap();
    check(&theirs, None).await.expect("those of the authority after are");
    check(&open, None).await.expect("an open connection goes on");
    drop((open, theirs));
    assert!(process.terminate().await);
}

#[tokio::test]
async fn webhooks_and_metrics_are_served_by_tls() {
    let (db, authority) = (Db::new().await, Authority::new());
    let tls = || Some(authority.listener());
    let listeners = ListenerFiles { webhook: tls(), operator: tls(), ..ListenerFiles::default() };
    let replica = Replica::start_with(Config { listeners, ..config(&db) }).await;
    let trusted = reqwest::Certificate::from_pem(authority.pem.as_bytes()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([trusted]).build().unwrap();
    let (http, internal) = (replica.bound.webhook.port(), replica.bound.operator.port());
    for url in [
        format!("https://localhost:{http}/readyz"),
        format!("https://localhost:{internal}/metrics"),
    ] {
        let answer = client.get(&url).send().await.unwrap();
        let found = (answer.status().as_u16(), answer.version());
        assert_eq!(found, (200, http::Version::HTTP_11), "{url}");
    }
    let page = client.get(format!("https://localhost:{internal}/metrics")).send().await.unwrap();
    let ends = page.text().await.unwrap();
    let ends =
        ends.lines().find_map(|l| l.strip_prefix("entitlements_certificate_expires_at_seconds "));
    let first_of_2040 = "2208988800";
    assert_eq!(ends, Some(first_of_2040));
    let webhook = client.post(format!("https://localhost:{http}/webhooks/clerk")).body("{}");
    assert_eq!(webhook.send().await.unwrap().status(), 400);
    assert!(plain_http().get(format!("http://localhost:{http}/livez")).send().await.is_err());
    let stream = handshake(&authority, replica.bound.webhook, &["h2", "http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn peers_without_a_handshake_or_a_request_are_disconnected() {
    let (db, authority) = (Db::new().await, Authority::new());
    let api = Some(authority.listener());
    let webhook = Some(authority.listener());
    let replica = start(&db, ListenerFiles { api, webhook, ..ListenerFiles::default() }).await;
    let hello = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), &[7; 40]].concat();
    let silent_after_handshake = async |to| {
        let mut stream = handshake(&authority, to, &[]).await;
        stream.write_all(b"P").await.unwrap();
        let mut rest = Vec::new();
        let end = timeout(TIMEOUT, stream.read_to_end(&mut rest)).await;
        let _ = end.expect("a peer that is silent after the handshake is disconnected");
    };
    let waits = [replica.bound.api, replica.bound.webhook].map(|to| {
        // A silent connection, and a handshake that is not completed.
        join3(
            raw_socket::exchange(to, ""),
            raw_socket::exchange(to, &hello),
            silent_after_handshake(to),
        )
    });
    join_all(waits).await;
    let channel = connect_tls(replica.bound.api, authority.client(None)).await.unwrap();
    check(&channel, None).await.expect("others are served");
}

#[tokio::test]
async fn commands_speak_tls_and_present_certificates() {
    let (db, authority) = (Db::new().await, Authority::new());
    let (api, client_ca) = (Some(authority.listener()), Some(authority.client_ca()));
    let replica = start(&db, ListenerFiles { api, client_ca, ..ListenerFiles::default() }).await;
    let address = format!("localhost:{}", replica.bound.api.port());
    let shell = Shell::new(&[("ENTITLEMENTS_ADDR", &address)]);
    let (cert, key) = authority.issue(&[Name::Dns("laptop.test")]);
    shell.write("ca.pem", &authority.pem);
    shell.write("me.pem", &cert);
    shell.write("me.key", &key);
    let ask = ["check", "export", "--user", ADA, "--ca", "ca.pem"];
    let with = |more: &[&'static str]| [&ask[..], more].concat();
    let mine = ["--client-cert", "me.pem", "--client-key", "me.key"];
    let (code, stdout, stderr) = shell.run(&with(&mine)).await;
    assert!(code == 1 && stdout.starts_with("export: denied"), "{stderr}");
    let trusted = shell.path("ca.pem");
    let trusting = Shell::new(&[("SSL_CERT_FILE", trusted.to_str().unwrap())]);
    let https = format!("https://{address}");
    for (shell, arguments, words) in [
        (&shell, with(&[]), "the call has no valid credentials"),
        (&shell, with(&["--client-cert", "me.pem"]), "--client-key"),
        (&shell, with(&["--addr", "http://localhost:1"]), "--ca and --client-cert need TLS"),
        (&shell, with(&["--ca", "absent.pem"]), "cannot be used multiple times"),
        (&shell, vec!["check", "x", "--user", ADA, "--ca", "absent.pem"], "cannot read absent.pem"),
        (&shell, vec!["check", "x", "--user", ADA, "--addr", &https], "cannot reach https://"),
        (
            &trusting,
            vec!["check", "x", "--user", ADA, "--addr", &https],
            "the call has no valid credentials",
        ),
        (&shell, with(&["--client-cert", "me.key", "--client-key", "me.key"]), "cannot"),
    ] {
        let (code, _, stderr) = shell.run(&arguments).await;
        assert!(code == 2 && stderr.contains(words), "{arguments:?}: {stderr}");
    }
    let look = [&["deliveries", "list", "--ca", "ca.pem"][..], &mine].concat();
    let (code, _, stderr) = shell.run(&look).await;
    assert!(code == 2 && stderr.contains("lacks the scope `admin`"), "{stderr}");
}

#[tokio::test]
async fn invalid_certificate_files_are_named_at_start() {
    let authority = Authority::new();
    authority.serve_as("first.test");
    let (other, _) = authority.issue(&[Name::Dns("localhost")]);
    fs::write(authority.path("other.pem"), other).unwrap();
    fs::write(authority.path("old.pem"), authority.expired()).unwrap();
    fs::write(authority.path("empty.pem"), "").unwrap();
    let broken = "-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n";
    fs::write(authority.path("broken.pem"), broken).unwrap();
    for (certificate, key, clients, words) in [
        ("absent.pem", "key.pem", None, "ENTITLEMENTS_API_TLS_CERT: cannot read"),
        ("cert.pem", "absent.pem", None, "ENTITLEMENTS_API_TLS_KEY: cannot read"),
        ("cert.pem", "key.pem", Some("absent.pem"), "ENTITLEMENTS_API_CLIENT_CA: cannot read"),
        ("empty.pem", "key.pem", None, "ENTITLEMENTS_API_TLS_CERT: has no certificate in PEM"),
        ("key.pem", "key.pem", None, "ENTITLEMENTS_API_TLS_CERT: has no certificate in PEM"),
        (
            "broken.pem",
            "key.pem",
            None,
            "ENTITLEMENTS_API_TLS_CERT: the certificate or its key cannot be used",
        ),
        ("cert.pem", "cert.pem", None, "ENTITLEMENTS_API_TLS_KEY: has no private key in PEM"),
        ("other.pem", "key.pem", None, "the private key of ENTITLEMENTS_API_TLS_KEY do not match"),
        (
            "old.pem",
            "key.pem",
            None,
            "ENTITLEMENTS_API_TLS_CERT: the certificate expired at 2021-02-01T00:00:00Z",
        ),
        (
            "cert.pem",
            "key.pem",
            Some("empty.pem"),
            "ENTITLEMENTS_API_CLIENT_CA: has no certificate",
        ),
    ] {
        let path = |name: &str| authority.path(name).to_str().unwrap().to_owned();
        let (cert, key, clients) = (path(certificate), path(key), clients.map(path));
        let mut variables =
            vec![("ENTITLEMENTS_API_TLS_CERT", cert.as_str()), ("ENTITLEMENTS_API_TLS_KEY", &key)];
        variables.extend(clients.as_deref().map(|clients| ("ENTITLEMENTS_API_CLIENT_CA", clients)));
        check_refused(&variables, &[words]).await;
    }
}

#[tokio::test]
async fn peers_of_the_api_listener_agree_on_a_version_of_http_or_are_told_by_their_first_bytes() {
    let (db, authority) = (Db::new().await, Authority::new());
    let listeners = ListenerFiles { api: Some(authority.listener()), ..ListenerFiles::default() };
    let replica = start(&db, listeners).await;
    let request = b"GET /nothing HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for (offers, agreed, sent, begins) in [
        (&["h2"][..], Some(&b"h2"[..]), &preface[..], None),
        (&["http/1.1"], Some(b"http/1.1"), request, Some("HTTP/1.1 404")),
        (&["h2", "http/1.1"], Some(b"h2"), preface, None),
        (&[], None, request, Some("HTTP/1.1 404")),
        (&[], None, preface, None),
    ] {
        let mut stream = handshake(&authority, replica.bound.api, offers).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed, "{offers:?}");
        stream.write_all(sent).await.unwrap();
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        match begins {
            Some(begins) => assert_eq!(String::from_utf8_lossy(&answer), begins, "{offers:?}"),
            None => assert_eq!(answer[3], 4, "{offers:?}: a SETTINGS frame"),
        }
    }
}
