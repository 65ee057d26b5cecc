//! The commands about overrides: a day of support as `docs/support.md` shows it, exports and imports, and wrong arguments.
//! `UPDATE_DOCS=1` writes the output on the page anew.

use crate::support::{
    database::Db,
    flagd::with_catalog,
    overrides::{all, end, granted, limited, replica, set, set_id, until},
    service::{ADA, GRACE, Replica, payload},
    shell::Shell,
};
use chrono::{TimeDelta, Utc};
use entitlements::api::pb::{Override, grant::Number};
use insta::assert_snapshot;
use std::{env, fmt::Write, fs};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/support.md");

fn shell(db: &Db, replica: &Replica) -> Shell {
    let address = format!("http://{}", replica.bound.api);
    Shell::new(&[("ENTITLEMENTS_ADDR", &address), ("DATABASE_URL", &db.url)])
}

/// Ids as the page names them, in the order of their appearance; times of the test are `…`.
#[derive(Default)]
struct Names(Vec<String>);

impl Names {
    fn replace(&mut self, output: &str) -> String {
        let mut text = String::new();
        for piece in output.split_inclusive([' ', '\n']) {
            let word = piece.trim_end_matches([' ', '\n', ',', ':', ';']);
            let rest = &piece[word.len()..];
            if uuid::Uuid::parse_str(word).is_ok() {
                let known = self.0.iter().position(|id| id == word);
                let nth = known.unwrap_or_else(|| {
                    self.0.push(word.into());
                    self.0.len() - 1
                });
                write!(text, "ID{}{rest}", nth + 1).unwrap();
            } else if word.ends_with('Z')
                && word.contains('T')
                && word.starts_with("20")
                && !word.contains(":00:00Z")
            {
                write!(text, "…{rest}").unwrap();
            } else {
                text += piece;
            }
        }
        text
    }

    fn restore(&self, line: &str) -> String {
        let named = self.0.iter().enumerate().rev();
        named.fold(line.to_owned(), |line, (nth, id)| line.replace(&format!("ID{}", nth + 1), id))
    }
}

#[tokio::test]
async fn a_day_at_the_support_desk_goes_as_the_page_shows() {
    let db = Db::new().await;
    let page = fs::read_to_string(PAGE).unwrap();
    let catalog = page.split_once("```toml").unwrap().1.split_once("```").unwrap().0;
    let replica = Replica::start_with(with_catalog(catalog, &db)).await;
    let shell = shell(&db, &replica);
    let (before, rest) = page.split_once("## A day at the support desk").unwrap();
    let (day, after) = rest.split_once("## Twenty incidents").unwrap();
    let (mut names, mut new, mut is_output) = (Names::default(), Vec::new(), false);
    for line in day.lines() {
        if let Some(command) = line.strip_prefix("$ entitlements ") {
            let command = names.restore(command);
            let arguments: Vec<_> = command.split_whitespace().collect();
            let (code, stdout, stderr) = shell.run(&arguments).await;
            assert_eq!(code, 0, "{command}: {stdout}{stderr}");
            if command.contains("--dry-run") {
                // Its id is not kept.
                let mut dry = Names::default();
                new.extend([line.to_owned(), dry.replace(stdout.trim_end())]);
            } else {
                new.extend([line.to_owned(), names.replace(stdout.trim_end())]);
            }
            is_output = true;
        } else {
            is_output &= !line.starts_with("```");
            if !is_output {
                new.push(line.to_owned());
            }
        }
    }
    let new = format!(
        "{before}## A day at the support desk{}\n\n## Twenty incidents{after}",
        new.join("\n").trim_end()
    );
    if env::var("UPDATE_DOCS").as_deref() == Ok("1") {
        fs::write(PAGE, new).unwrap();
    } else {
        let fix = "run `UPDATE_DOCS=1 cargo test --test it a_day_at_the_support_desk`";
        assert_eq!(new, page, "docs/support.md is outdated: {fix}");
    }
}

#[tokio::test]
async fn a_restore_and_an_import_lose_no_override() {
    let (old, new) = (Db::new().await, Db::new().await);
    let replica = replica(&old).await;
    let soon = Utc::now() + TimeDelta::days(9);
    let first = set_id(&replica, until(granted(ADA, "export"), soon)).await;
    set(&replica, limited(GRACE, "projects", Number::Exactly(7))).await;
    let ended = set_id(&replica, granted(GRACE, "export")).await;
    // The backup has three overrides; one of them is replaced and one is ended later.
    let backup = shell(&old, &replica).run(&["override", "export"]).await.1;
    set(
        &replica,
        Override { replaces: first, reason: "ä \"longer\"".into(), ..granted(ADA, "export") },
    )
    .await;
    end(&replica, &ended).await;
    set(&replica, granted("org_new", "sso")).await;
    let (code, export, stderr) = shell(&old, &replica).run(&["override", "export"]).await;
    assert_eq!((code, export.lines().count()), (0, 5), "{stderr}");

    let restored = crate::support::overrides::replica(&new).await;
    let shell = shell(&new, &restored);
    shell.write("backup.jsonl", &backup);
    shell.write("export.jsonl", &export);
    let import = async |file| shell.run(&["override", "import", file]).await;
    let (code, stdout, stderr) = import("backup.jsonl").await;
    assert_eq!(code, 0, "{stderr}");
    assert_snapshot!(stdout, @"3 overrides added, 0 ends noted, 0 there already, 0 conflicts, of 2 subjects");
    let stdout = import("export.jsonl").await.1;
    assert_snapshot!(stdout, @"2 overrides added, 2 ends noted, 3 there already, 0 conflicts, of 3 subjects");
    let stdout = import("export.jsonl").await.1;
    assert_snapshot!(stdout, @"0 overrides added, 0 ends noted, 5 there already, 0 conflicts, of 3 subjects");
    let mut lost = 0;
    for subject in [ADA, GRACE, "org_new"] {
        let (before, after) = (all(&replica, subject).await, all(&restored, subject).await);
        lost += before.iter().filter(|found| !after.contains(found)).count();
        assert_eq!(before, after, "{subject}");
    }
    println!("5 overrides and 2 ends restored and imported: {lost} lost");
    restored.caught_up().await;
    assert!(restored.check(ADA, "", "export").await.allowed);
    assert!(!restored.check(GRACE, "", "export").await.allowed);
    assert_eq!(restored.check(GRACE, "", "projects").await.limit, Some(7));

    shell.write("bad.jsonl", "{\"subject\": \"user_a\"}\nnothing\n");
    let (code, _, stderr) = import("bad.jsonl").await;
    assert!(code == 2 && stderr.contains("bad.jsonl, line 2"), "{stderr}");
    shell.write("bad.jsonl", "{\"subject\": \"user_a\"}");
    let (code, _, stderr) = import("bad.jsonl").await;
    assert!(code == 2 && stderr.contains("cannot import the overrides of user_a"), "{stderr}");
    assert_eq!(new.count("override").await, 5);
}

#[tokio::test]
async fn an_import_reports_what_conflicts_and_adds_the_rest() {
    let (old, new) = (Db::new().await, Db::new().await);
    let replicas = [replica(&old).await, crate::support::overrides::replica(&new).await];
    let first = set_id(&replicas[0], granted(ADA, "export")).await;
    let backup = shell(&old, &replicas[0]).run(&["override", "export"]).await.1;
    let extension = |replaces| Override { replaces, ..granted(ADA, "export") };
    let lost = set_id(&replicas[0], extension(first.clone())).await;
    set(&replicas[0], granted(GRACE, "export")).await;
    set(&replicas[0], granted("user_deleted", "export")).await;
    let export = shell(&old, &replicas[0]).run(&["override", "export"]).await.1;

    let shell = shell(&new, &replicas[1]);
    shell.write("backup.jsonl", &backup);
    shell.write("export.jsonl", &export);
    assert_eq!(shell.run(&["override", "import", "backup.jsonl"]).await.0, 0);
    // After the restore, an operator extends the override again, and Clerk deletes a user.
    set(&replicas[1], extension(first)).await;
    replicas[1].send(&payload("user.deleted").replace(ADA, "user_deleted")).await;
    let (code, stdout, stderr) = shell.run(&["override", "import", "export.jsonl"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains(&format!("override {lost} was not added")), "{stdout}");
    assert!(
        stdout.ends_with(
            "1 override added, 0 ends noted, 1 there already, 2 conflicts, of 3 subjects\n"
        ),
        "{stdout}"
    );
    for (name, from, to, words) in [
        (
            "a date",
            "\"expires_at\": null",
            "\"expires_at\": \"infinity\"",
            "line 1: `expires_at` must be a date",
        ),
        (
            "a text",
            "\"owner\": \"ada\"",
            "\"owner\": \"a\\u001bb\"",
            "override_has_short_plain_texts",
        ),
        (
            "an end",
            "\"permanent\": true",
            "\"permanent\": false",
            "override_is_permanent_or_expires",
        ),
    ] {
        let id = uuid::Uuid::now_v7().to_string();
        let line = backup.lines().next().unwrap();
        let line = line.replace("\": ", "\":").replace("\":", "\": ");
        let old = line.split("\"id\": \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        shell.write("bad.jsonl", &line.replace(&old, &id).replace(from, to));
        let (code, stdout, stderr) = shell.run(&["override", "import", "bad.jsonl"]).await;
        assert!(code == 2 && stderr.contains(words), "{name}: {stdout}{stderr}");
    }
    shell.write("other.jsonl", &backup.replace("a test", "another reason"));
    let (_, stdout, _) = shell.run(&["override", "import", "other.jsonl"]).await;
    assert!(stdout.contains("1 conflict"), "{stdout}");
    assert!(replicas[1].check(ADA, "", "export").await.allowed);
    assert!(!replicas[1].check("user_deleted", "", "export").await.allowed);
}

#[tokio::test]
async fn wrong_arguments_are_named() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    let shell = shell(&db, &replica);
    let mut errors = Vec::new();
    let by = ["--owner", "ada", "--reason", "a test"];
    for (arguments, has_note) in [
        (&["override", "grant", "export", "--user", ADA][..], true),
        (&["override", "grant", "export", "--permanent"], true),
        (&["override", "grant", "export", "--user", ADA, "--permanent"], false),
        (&["override", "grant", "export", "--user", ADA, "--permanent", "--for", "3d"], true),
        (&["override", "grant", "export", "--user", ADA, "--until", "next week"], true),
        (&["override", "grant", "exprot", "--user", ADA, "--permanent"], true),
        (&["override", "deny", "export", "--user", ADA, "--until", "2020-01-01"], true),
        (&["override", "end", "4711", "--reason", "over"], false),
        (&["catalog", "preview", ADA, "gold"], false),
        (&["catalog", "preview", ADA, "max", "--count", "projcets=3"], false),
        (&["catalog", "preview", ADA, "max", "--count", "projects"], false),
        (&["subjects", "--feature", ""], false),
    ] {
        let note = if has_note { &by[..] } else { &[] };
        let arguments: Vec<_> = arguments.iter().chain(note).copied().collect();
        let (code, stdout, stderr) = shell.run(&arguments).await;
        assert_eq!((code, &*stdout), (2, ""), "{arguments:?}: {stderr}");
        let error = stderr.split("\n\n").next().unwrap().trim_end().replace('\n', " ");
        errors.push(error);
    }
    assert_snapshot!(errors.join("\n"), @r"
    error: the following required arguments were not provided:   <--until <TIME>|--for <DURATION>|--permanent>
    error: the following required arguments were not provided:   <--user <ID>|--org <ID>>
    error: the following required arguments were not provided:   --owner <NAME>   --reason <TEXT>
    error: the argument '--permanent' cannot be used with '--for <DURATION>'
    error: invalid value 'next week' for '--until <TIME>': needs a date, as 2026-12-31, a time, as 2026-12-31T18:00:00Z, `now`, `today`, `yesterday`, `tomorrow`, or a duration, as 3h
    error: InvalidArgument: override.feature: is not in catalog 1: check the spelling; a name that a later catalog will have needs `allow_unknown` (on the command line: --unknown)
    error: InvalidArgument: override.expires_at: is in the past
    error: InvalidArgument: id: must be the id of an override, a UUID such as 0197f4c1-8f60-7cc3-98c4-dc0c0c07398f
    error: `gold` is not a plan for users in catalog 1: check the spelling
    error: --count names `projcets`, which catalog 1 does not have: check the spelling
    error: invalid value 'projects' for '--count <FEATURE=NUMBER>': needs a feature and a number, as projects=30
    error: InvalidArgument: feature: must be a slug: 1 to 128 bytes without control characters
    ");
    assert_eq!(db.count("override").await, 0);
}
