//! `dev` on a machine with other users: folders and links that they prepared, and sockets that they can reach.

use crate::{
    support::checkout::{ATTACKER, Checkout, Elsewhere, hash, made, mode},
    support::database::Db,
    support::proxy::Proxy,
    support::service::SECRET,
    support::skip::skip_without_root,
};
use rustix::process::geteuid;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::{
    env, fs,
    os::unix::fs::{MetadataExt, chown, symlink},
    path::Path,
};
use tokio::process::Command;

/// Runs a query on the database of a URL as the user of the tests, and returns the rows.
async fn query_rows(url: &str, query: &str) -> Vec<String> {
    let mut db = PgConnection::connect(url).await.unwrap();
    let rows = sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&mut db).await.unwrap();
    db.close().await.unwrap();
    rows
}

#[tokio::test]
async fn a_folder_that_another_user_made_in_tmp_gets_no_socket() {
    let Some(checkout) = Checkout::of_daemon(80).await else { return };
    let trap = Elsewhere(format!("/tmp/entitlements-{:016x}", hash(&checkout.home())).into());
    made(&trap.0, 0o777);
    chown(&trap.0, Some(ATTACKER), Some(ATTACKER)).unwrap();

    let dev = checkout.start().await;
    let sockets = Elsewhere(dev.sockets());
    assert_eq!(fs::read_dir(&trap.0).unwrap().count(), 0, "the trap was used");
    let found = fs::metadata(&sockets.0).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o7777), (checkout.ids().0, 0o700));
    let socket = fs::metadata(sockets.0.join(".s.PGSQL.5432")).unwrap();
    assert_eq!(socket.mode() & 0o7777, 0o700);
    dev.stop().await;

    let again = checkout.start().await;
    assert_eq!(again.sockets(), sockets.0, "the folder is remembered");
    again.stop().await;
    fs::remove_dir_all(&sockets.0).unwrap();
    made(&sockets.0, 0o777); // another user created it after /tmp was cleared
    chown(&sockets.0, Some(ATTACKER), Some(ATTACKER)).unwrap();
    let after = checkout.start().await;
    let fresh = Elsewhere(after.sockets());
    assert_ne!(fresh.0, sockets.0);
    after.stop().await;
}

#[tokio::test]
async fn other_users_cannot_connect_to_a_reachable_or_formerly_trusting_postgres() {
    let Some(checkout) = Checkout::of_daemon(8).await else { return };
    let open = || {
        for path in [checkout.kept(), checkout.home(), checkout.home().join(".s.PGSQL.5432")] {
            mode(&path, 0o777);
        }
    };
    let dev = checkout.start().await;
    open();
    let refusal = dev.refuses_us().await;
    assert!(refusal.contains("Peer authentication failed"), "{refusal}");
    dev.stop().await;

    mode(&checkout.kept(), 0o700);
    mode(&checkout.home(), 0o700);
    let data = checkout.home().join("data");
    fs::write(data.join("pg_hba.conf"), "local all all trust\n").unwrap(); // as older versions wrote it
    let old = checkout.start().await;
    open();
    let refusal = old.refuses_us().await;
    assert!(refusal.contains("Peer authentication failed"), "{refusal}");
    old.stop().await;
}

#[tokio::test]
async fn the_postgres_of_the_tests_is_private() {
    let methods = "select distinct auth_method from pg_hba_file_rules order by 1";
    assert_eq!(query_rows(&Db::admin_url(), methods).await, ["peer", "scram-sha-256"]);
    let sockets = query_rows(&Db::admin_url(), "show unix_socket_directories").await.remove(0);
    assert_eq!(fs::metadata(&sockets).unwrap().mode() & 0o7777, 0o700, "{sockets}");
    let socket = Path::new(&sockets).join(".s.PGSQL.5432");
    assert_eq!(fs::metadata(socket).unwrap().mode() & 0o7777, 0o700);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_server_has_no_terminal_and_nothing_of_our_environment() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let data = query_rows(&Db::admin_url(), "show data_directory").await.remove(0);
    let file = fs::read_to_string(Path::new(&data).join("postmaster.pid")).unwrap();
    let pid = file.lines().next().unwrap();
    let stat = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().map(str::to_owned);
        fields.skip(3).take(2).collect::<Vec<_>>() // the session, and its terminal
    };
    let (server, ours) = (stat(pid), stat("self"));
    assert_ne!(server[0], ours[0], "it is in our session");
    assert_eq!(server[1], "0", "it has a terminal");
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(env::var_os("CARGO_MANIFEST_DIR").is_some(), "cargo sets it for tests");
    assert!(!environment.contains("CARGO") && !environment.contains("HOME="), "{environment}");
}

#[tokio::test]
async fn the_proxy_of_the_tests_rejects_other_users() {
    let Some(checkout) = Checkout::of_daemon(8).await else { return };
    let db = Db::new().await;
    let proxy = Proxy::before(&db.url).await;
    let migrate = || {
        let mut migrate = Command::new(checkout.binary());
        migrate.arg("migrate").env("DATABASE_URL", proxy.url(db.name()));
        migrate
    };
    assert!(migrate().status().await.unwrap().success());
    let (uid, gid) = checkout.ids();
    let refused = migrate().uid(uid).gid(gid).output().await.unwrap();
    assert!(!refused.status.success(), "{refused:?}");
}

#[tokio::test]
async fn as_root_paths_prepared_by_another_user_are_neither_chowned_nor_emptied() {
    if !geteuid().is_root() {
        return skip_without_root();
    }
    let checkout = Checkout::new().await;
    let base = checkout.elsewhere();
    let name = format!("postgres-{}", checkout.postgres.major);
    let prize = tempfile::tempdir().unwrap();
    let (folder, file) = (prize.path().join("folder"), prize.path().join("file"));
    made(&folder, 0o700);
    fs::write(&file, "precious").unwrap();
    mode(&file, 0o600);
    let home = base.0.join(&name);
    let of_attacker = |path: &Path| chown(path, Some(ATTACKER), Some(ATTACKER)).unwrap();
    let cases: [(&str, &dyn Fn(), &str); 7] = [
        ("a link as the folder", &|| symlink(&folder, &base.0).unwrap(), "is a link"),
        (
            "a folder of the attacker with a link to a folder",
            &|| {
                made(&base.0, 0o755);
                symlink(&folder, &home).unwrap();
                of_attacker(&base.0);
            },
            "belongs to uid 4343",
        ),
        (
            "a folder of the attacker with links to files",
            &|| {
                made(&base.0, 0o755);
                made(&home, 0o777);
                for link in ["start.lock", "postgres.log"] {
                    symlink(&file, home.join(link)).unwrap();
                }
                of_attacker(&home);
                of_attacker(&base.0);
            },
            "belongs to uid 4343",
        ),
        (
            "a folder of root that others can write in",
            &|| made(&base.0, 0o777),
            "other users have rights on",
        ),
        (
            "a folder of root with a link to a folder",
            &|| {
                made(&base.0, 0o755);
                symlink(&folder, &home).unwrap();
            },
            "is a link",
        ),
        (
            "a server's folder of the attacker",
            &|| {
                made(&base.0, 0o755);
                made(&home, 0o700);
                of_attacker(&home);
            },
            "belongs to uid 4343",
        ),
        (
            "a link as the lock",
            &|| {
                made(&base.0, 0o755);
                symlink(&file, base.0.join(format!("{name}.lock"))).unwrap();
            },
            "is a link",
        ),
    ];
    for (case, prepare, words) in cases {
        base.clear();
        prepare();
        let output = checkout.refusal().await;
        assert!(
            output.contains(words) && output.contains("/var/tmp/entitlements-"),
            "{case}: {output}"
        );
        let found = fs::metadata(&folder).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o777), (0, 0o700), "{case}");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "{case}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious", "{case}");
    }
}

#[tokio::test]
async fn as_root_links_made_by_the_postgres_account_are_not_followed() {
    if !geteuid().is_root() {
        return skip_without_root();
    }
    let checkout = Checkout::new().await;
    let base = checkout.elsewhere();
    checkout.start().await.stop().await;
    let home = base.0.join(format!("postgres-{}", checkout.postgres.major));
    let account = fs::metadata(&home).unwrap();
    assert_ne!(account.uid(), 0);
    let prize = tempfile::tempdir().unwrap();
    let file = prize.path().join("file");
    fs::write(&file, "precious").unwrap();
    for name in ["start.lock", "postgres.log", "postgres.lock", "data.new"] {
        let link = home.join(name);
        let _ = fs::remove_file(&link); // older versions made some of them
        symlink(&file, &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(account.uid()), Some(account.gid())).unwrap();
    }
    checkout.start().await.stop().await;
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert_eq!(fs::metadata(&file).unwrap().uid(), 0);
    let ours = fs::read_dir(&base.0).unwrap().map(|entry| entry.unwrap());
    for entry in ours.filter(|entry| entry.path() != home) {
        assert_eq!(entry.metadata().unwrap().uid(), 0, "{}", entry.path().display());
    }
}

#[tokio::test]
async fn paths_that_others_can_write_or_read_are_rejected_by_name_with_the_fix() {
    let checkout = Checkout::new().await;
    let postgres = &checkout.postgres;
    let parent = checkout.folder.path();
    mode(parent, 0o755); // lets the server's user enter if we are root
    let (kept, home) = (checkout.kept(), checkout.home());
    let elsewhere = parent.join("elsewhere");
    made(&elsewhere, 0o700);
    let file = |name: &str| kept.join(name);
    let lock = file(&format!("postgres-{}.lock", postgres.major));
    let secret = file("webhook-signing-secret");
    mode(parent, 0o777);
    let output = checkout.refusal().await;
    assert!(output.contains("chmod o-w ") && !kept.exists(), "{output}");
    mode(parent, 0o755);
    let cases: [(&dyn Fn(), &Path, &str); 6] = [
        (&|| symlink(&elsewhere, &kept).unwrap(), &kept, "is a link"),
        (&|| made(&kept, 0o777), &kept, "chmod go-w "),
        (
            &|| made(&home, 0o755),
            &home,
            if geteuid().is_root() { "belongs to uid 0" } else { "chmod go-rwx " },
        ),
        (&|| symlink(&elsewhere, &home).unwrap(), &home, "is a link"),
        (&|| symlink(elsewhere.join("none"), &lock).unwrap(), &lock, "is a link"),
        (&|| fs::write(&secret, SECRET).unwrap(), &secret, "chmod go-rwx "),
    ];
    for (prepare, path, words) in cases {
        let _ = fs::remove_file(&kept).or_else(|_| fs::remove_dir_all(&kept)); // it may not exist
        if path != kept {
            made(&kept, 0o755);
        }
        prepare();
        let output = checkout.refusal().await;
        assert!(output.contains(words) && output.contains(path.to_str().unwrap()), "{output}");
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0, "{output}");
    }
    mode(&secret, 0o600);
    let dev = checkout.start().await;
    assert_eq!(checkout.secret(), SECRET, "a secret that was there stays");
    dev.stop().await;
}

#[tokio::test]
async fn secrets_are_random_throughout_and_kept() {
    let (one, other) = (Checkout::new().await, Checkout::new().await);
    let (_one, _other) = (one.elsewhere(), other.elsewhere());
    one.start().await.stop().await;
    let first = one.secret();
    other.start().await.stop().await;
    one.start().await.stop().await;
    assert_eq!(one.secret(), first);
    let other = other.secret();
    // 32 bytes are 44 characters; none begins with the time.
    assert_eq!((first.trim().len(), other.trim().len()), (50, 50));
    assert_ne!(first[..11], other[..11], "the first 30 bits");
    assert_eq!(
        fs::metadata(one.kept().join("webhook-signing-secret")).unwrap().mode() & 0o777,
        0o600
    );
}
