//! An edited callers file, and the content that the running service uses.

use crate::{
    support::callers_file::CallersFile,
    support::database::Db,
    support::metrics::sample,
    support::process::Process,
    support::service::{Replica, config, eventually},
    support::shell::Shell,
};
use entitlements::{
    config::Config,
    server::auth::{KeyFile, Scope, fingerprint},
};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    process::Command,
};

/// The value of a gauge on a replica's metrics page.
async fn gauge(replica: &Replica, name: &str) -> u64 {
    let (_, page) = replica.get("/metrics").await;
    sample(&page, name).unwrap_or_else(|| panic!("{name} in:\n{page}"))
}

fn on_disk(path: &Path) -> u64 {
    fingerprint(&fs::read(path).unwrap())
}

async fn serve(db: &Db, file: &Path) -> (Process, String) {
    let process =
        Process::start(&db.url, &[("ENTITLEMENTS_CALLERS", file.to_str().unwrap())]).await;
    let internal = process.internal.strip_prefix("http://").unwrap().to_owned();
    (process, internal)
}

#[test]
fn an_edited_file_keeps_its_mode_and_its_owner() {
    let file = CallersFile::new();
    let path = file.path();
    for mode in [0o644, 0o640, 0o600] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
        let owner = if is_root { (65532, 65532) } else { owner_of(&path) };
        chown(&path, Some(owner.0), Some(owner.1)).unwrap();
        let found = || (fs::metadata(&path).unwrap().mode() & 0o777, owner_of(&path));
        file.create("backend", &[Scope::Check]);
        assert_eq!(found(), (mode, owner), "{mode:o}: created");
        file.revoke("backend");
        assert_eq!(found(), (mode, owner), "{mode:o}: revoked");
    }
    let new = path.with_file_name("new.toml");
    KeyFile::open(&new).unwrap().create("backend", &[Scope::Check]).unwrap();
    assert_eq!(
        fs::metadata(&new).unwrap().mode() & 0o777,
        0o644,
        "services of other users read it"
    );
}

fn owner_of(path: &Path) -> (u32, u32) {
    let file = fs::metadata(path).unwrap();
    (file.uid(), file.gid())
}

#[tokio::test]
async fn metrics_show_the_active_key_file_and_whether_the_file_is_broken() {
    let (db, file) = (Db::new().await, CallersFile::new());
    let replica = Replica::launch(Config { listeners: file.listeners(), ..config(&db) }).await;
    let (in_force, broken) = ("entitlements_callers_in_force", "entitlements_callers_broken");
    assert_eq!(gauge(&replica, in_force).await, on_disk(&file.path()));
    file.create("backend", &[Scope::Check]);
    let good = on_disk(&file.path());
    eventually("the new content is in force", async || gauge(&replica, in_force).await == good)
        .await;
    assert_eq!(gauge(&replica, broken).await, 0);
    fs::write(file.path(), "[keys").unwrap();
    eventually("the file is broken", async || gauge(&replica, broken).await == 1).await;
    assert_eq!(gauge(&replica, in_force).await, good);
    fs::write(file.path(), "").unwrap();
    eventually("the file can be used", async || gauge(&replica, broken).await == 0).await;
    // Reading a pipe would block without end.
    fs::remove_file(file.path()).unwrap();
    assert!(Command::new("mkfifo").arg(file.path()).status().unwrap().success());
    eventually("a pipe is no file", async || gauge(&replica, broken).await == 1).await;
    fs::remove_file(file.path()).unwrap();
    file.create("backend", &[Scope::Check]);
    eventually("the file is valid again", async || gauge(&replica, broken).await == 0).await;
    assert_eq!(gauge(&replica, in_force).await, on_disk(&file.path()));

    let open = Replica::start(&db).await;
    assert_eq!((gauge(&open, in_force).await, gauge(&open, broken).await), (0, 0));
}

#[tokio::test]
async fn commands_report_whether_the_running_service_uses_the_change() {
    let (db, file) = (Db::new().await, CallersFile::new());
    let (path, create) = (file.path(), ["keys", "create", "a", "--scope", "check"]);
    let (_process, internal) = serve(&db, &path).await;
    let callers = ("ENTITLEMENTS_CALLERS", path.to_str().unwrap());
    let shell = Shell::new(&[callers, ("ENTITLEMENTS_OPERATOR_LISTEN", &internal)]);
    let in_force = format!("In force on http://{internal}");
    let (code, _, stderr) = shell.run(&create).await;
    assert!(code == 0 && stderr.contains(&in_force), "{stderr}");
    let (code, _, stderr) = shell.run(&["keys", "revoke", "a"]).await;
    assert!(code == 0 && stderr.contains(&in_force), "{stderr}");

    let nowhere = Shell::new(&[callers, ("ENTITLEMENTS_OPERATOR_LISTEN", "127.0.0.1:1")]);
    let (code, _, stderr) = nowhere.run(&create).await;
    let number = format!("entitlements_callers_in_force is {}", on_disk(&path));
    assert!(code == 0 && stderr.contains("No service answers"), "{stderr}");
    assert!(stderr.contains(&number), "{stderr}");

    let open = Replica::start(&db).await;
    let open =
        Shell::new(&[callers, ("ENTITLEMENTS_OPERATOR_LISTEN", &open.bound.operator.to_string())]);
    let (code, _, stderr) = open.run(&["keys", "revoke", "a"]).await;
    assert!(code == 0 && stderr.contains("has no callers file"), "{stderr}");
}

/// A container that mounts a file keeps its inode, as a hard link does.
#[tokio::test]
async fn a_service_that_keeps_the_old_file_is_reported() {
    let (db, file) = (Db::new().await, CallersFile::new());
    file.create("backend", &[Scope::Check]);
    let (path, mounted) = (file.path(), file.path().with_file_name("mounted.toml"));
    fs::hard_link(&path, &mounted).unwrap();
    let (process, internal) = serve(&db, &mounted).await;
    let shell = Shell::new(&[
        ("ENTITLEMENTS_CALLERS", path.to_str().unwrap()),
        ("ENTITLEMENTS_OPERATOR_LISTEN", &internal),
    ]);
    let doctor = async || shell.run(&["doctor"]).await.1;
    let well = doctor().await;
    assert!(well.contains("is in force on http://"), "{well}");

    let (code, _, stderr) = shell.run(&["keys", "revoke", "backend"]).await;
    assert!(code == 1 && stderr.contains("NOT in force"), "{code} {stderr}");
    assert!(stderr.contains("mount the folder"), "{stderr}");
    let ill = doctor().await;
    assert!(ill.contains("fail  callers file") && ill.contains("is not in force on"), "{ill}");
    let create = ["keys", "create", "other", "--scope", "check"];
    let (code, _, stderr) = shell.run(&create).await;
    assert!(code == 0 && stderr.contains("NOT in force"), "{code} {stderr}");
    assert!(!process.log().contains("has changed"), "the service cannot notice it");

    fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
    let writable = doctor().await;
    assert!(writable.contains("warn  callers file") && writable.contains("go-w"), "{writable}");
}
