//! What is rung for is heard, and nothing else.

use super::*;
use proptest::{collection::vec, prelude::*};

fn changes(most: usize) -> impl Strategy<Value = Vec<Changed>> {
    let subject = "(user|org)_[A-Za-z0-9]{1,40}".prop_map(|id| id.parse().expect("an id"));
    vec((subject, any::<u64>()), 1..most)
}

fn rings(changes: &[Changed]) -> (Doorbell, String) {
    let doorbell = Doorbell::new();
    for (subject, revision) in changes {
        doorbell.changed(subject, *revision);
    }
    let content = doorbell.content();
    (doorbell, content)
}

proptest! {
    #[test]
    fn a_few_changes_are_told_by_name_and_many_are_not(changes in changes(300)) {
        let (doorbell, content) = rings(&changes);
        prop_assert!(content.len() <= LONGEST);
        let named = match content.as_str() {
            "" => Ring::Unnamed,
            _ => Ring::Own(changes.clone()),
        };
        prop_assert_eq!(doorbell.ring(&content), named.clone());
        prop_assert!(changes.len() > 100 || named != Ring::Unnamed, "{} could be named", changes.len());
        prop_assert_eq!(doorbell.content(), "", "all of it was told");
    }

    #[test]
    fn others_hear_that_it_was_not_they_who_rang(changes in changes(20)) {
        let (_, content) = rings(&changes);
        prop_assert_eq!(Doorbell::new().ring(&content), Ring::Others(changes));
    }

    #[test]
    fn what_cannot_be_read_sends_to_the_log(content in ".{0,80}") {
        let heard = Doorbell::new().ring(&content);
        prop_assert!(matches!(heard, Ring::Unnamed | Ring::Others(_)));
    }
}

#[test]
fn a_ring_that_also_tells_of_the_catalog_sends_to_the_log() {
    let doorbell = Doorbell::new();
    doorbell.changed(&"user_1".parse().unwrap(), 1);
    doorbell.unnamed();
    assert_eq!(doorbell.content(), "");
    for content in ["", "x", "x user_1", "x user_1 one", "x user_1 1 org_2", "x nobody 1"] {
        assert_eq!(doorbell.ring(content), Ring::Unnamed, "{content:?}");
    }
}
