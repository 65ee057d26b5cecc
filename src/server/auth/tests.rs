//! Tests of the callers file and of API keys.

use super::{
    api_key::{CallerName, KeyHash, make},
    key_file::{document, without},
};
use std::collections::BTreeSet;

/// Checks that a file with this text is rejected with these words; `HASH` is replaced by a valid hash.
fn check_rejected(text: &str, words: &str) {
    let text = text.replace("HASH", &KeyHash::of(b"key").to_string());
    let error = document(&text).err().unwrap_or_else(|| panic!("was accepted: {text}"));
    assert!(format!("{error:#}").contains(words), "{text}: {error:#}");
}

#[test]
fn an_invalid_file_is_rejected_with_the_reason() {
    for (text, words) in [
        ("[key.a]", "unknown field `key`"),
        ("[keys.a]\nscopes = ['check']", "missing field `sha256`"),
        ("[keys.a]\nsha256 = 'HASH'", "missing field `scopes`"),
        ("[keys.a]\nsha256 = 'HASH'\nscopes = ['chek']", "unknown variant `chek`"),
        ("[keys.a]\nsha256 = 'HASH'\nscopes = ['check']\nname = 'a'", "unknown field `name`"),
        ("[keys.a]\nsha256 = 'abc'\nscopes = ['check']", "64 hexadecimal digits"),
        ("[keys.a]\nsha256 = '+HASH'\nscopes = ['check']", "64 hexadecimal digits"),
        ("[keys.A]\nsha256 = 'HASH'\nscopes = ['check']", "`A` is not a valid key name"),
        ("[keys.a]\nsha256 = 'HASH'\nscopes = []\n[keys.b]\nsha256 = 'HASH'\nscopes = []", "same"),
        ("[certificates.a]\nscope = ['check']", "unknown field `scope`"),
        ("[certificates.'Billing service']\nscopes = []", "as `cn:Billing service`"),
        ("[certificates.Ops]\nscopes = []", "as `cn:Ops`, and a DNS name in lower case"),
        ("[certificates.'cn:']\nscopes = []", "neither a URI nor a DNS name"),
        ("keys = 1", "invalid type"),
        ("[keys", "TOML parse error"),
    ] {
        check_rejected(text, words);
    }
}

#[test]
fn a_key_contains_its_name_and_a_long_unique_random_part() {
    let name: CallerName = "billing-2".parse().unwrap();
    let keys: BTreeSet<_> = (0..100).map(|_| make(&name).unwrap()).collect();
    assert_eq!(keys.len(), 100);
    for key in keys {
        let random = key.strip_prefix("ent_billing-2_").unwrap();
        assert!(random.len() == 43 && random.bytes().all(|b| b.is_ascii_alphanumeric()), "{key}");
    }
}

#[test]
fn a_key_is_removed_with_its_comments_and_nothing_else() {
    let text = "\
# ours

# of Ada
[keys.a] # first
scopes = [
  'check',
]

# of Grace
[keys.b]
scopes = []

[certificates.c]
scopes = []";
    let left = without(text, "a").unwrap();
    assert_eq!(left, format!("# ours\n\n# of Grace\n{}\n", text.split_once("Grace\n").unwrap().1));
    let left = without(text, "b").unwrap();
    assert_eq!(
        left,
        "# ours\n\n# of Ada\n[keys.a] # first\nscopes = [\n  'check',\n]\n\n[certificates.c]\nscopes = []\n"
    );
    assert_eq!(without(text, "c"), None);
    for blank in ["  ", "\r"] {
        let text =
            format!("# ours\n{blank}\n# of Ada\n[keys.a]\nscopes = []\n[keys.b]\nscopes = []\n");
        let left = without(&text, "a").unwrap();
        assert!(left.starts_with("# ours") && !left.contains("Ada"), "{left}");
    }
    assert_eq!(without("keys = { a = {} }", "a").as_deref(), Some("keys = {}\n"));
}
