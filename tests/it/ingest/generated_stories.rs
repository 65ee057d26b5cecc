//! Generated stories of users and organizations, shuffled, repeated and split over three replicas, compared with the
//! oracle.

use crate::{
    support::database::Db,
    support::oracle::expected_state,
    support::rng::Rng,
    support::service::Replica,
    support::stories::{Story, catalog, kind, send_all, state},
};
use chrono::Utc;
use futures_util::future::join_all;
use std::env;

/// The number of stories, set by `STORIES`.
fn count() -> usize {
    env::var("STORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(300)
}

#[tokio::test]
async fn generated_stories_end_in_the_state_that_the_oracle_computes() {
    let mut rng = Rng::new();
    let stories: Vec<_> = (0..count()).map(|n| Story::new(n, &mut rng)).collect();
    let db = Db::new().await;
    let replicas = join_all((0..3).map(|_| Replica::start(&db))).await;
    let all: Vec<_> = stories.iter().flat_map(|story| story.messages.iter()).collect();
    send_all(&replicas, &rng.shuffled(&all)).await;

    let catalog = catalog();
    let now = Utc::now().timestamp_millis();
    join_all(replicas.iter().map(Replica::caught_up)).await;
    for (i, story) in stories.iter().enumerate() {
        let expected = expected_state(&story.messages, &catalog, kind(&story.subject), now);
        let account = replicas[i % 3].account(&story.subject).await;
        assert_eq!(state(&account), expected, "{}: {:#?}", story.subject, story.messages);
    }
}
