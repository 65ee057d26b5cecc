//! The age limit of fetched keys.

use super::*;

/// Keys that were fetched this long ago, from a URL that no longer answers.
fn fetched(ago: Duration) -> SessionKeys {
    let SessionKeys::Published(published) =
        SessionKeys::published("http://127.0.0.1:1/jwks").unwrap()
    else {
        unreachable!("they are published")
    };
    let key = Arc::new(DecodingKey::from_secret(b"any"));
    let keys = HashMap::from([("ins_key".to_owned(), key)]);
    let at = Instant::now().checked_sub(ago).expect("the clock goes back a day");
    published.cached.store(Some(Arc::new(FetchedKeys { keys, at })));
    SessionKeys::Published(published)
}

#[tokio::test]
async fn keys_that_cannot_be_fetched_again_are_used_for_a_day() {
    let hour = Duration::from_hours(1);
    for ago in [Duration::ZERO, 2 * hour, 23 * hour] {
        assert!(fetched(ago).key(Some("ins_key")).await.is_ok(), "{ago:?}");
    }
    for ago in [24 * hour, 48 * hour] {
        let keys = fetched(ago);
        for _ in 0..2 {
            let refused = keys.key(Some("ins_key")).await;
            assert!(matches!(refused, Err(NoKey::Unavailable(_))), "{ago:?}: {refused:?}");
        }
    }
}
