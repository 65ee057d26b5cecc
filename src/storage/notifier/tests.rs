//! Payloads: round trips, the length limit, and payloads of other senders.

use super::*;
use proptest::{collection::vec, prelude::*};

fn changes(most: usize) -> impl Strategy<Value = Vec<Changed>> {
    let subject = "(user|org)_[A-Za-z0-9]{1,40}".prop_map(|id| id.parse().expect("an id"));
    vec((subject, any::<u64>()), 1..most)
}

fn pending(changes: &[Changed]) -> (Notifier, String) {
    let notifier = Notifier::new();
    for (subject, revision) in changes {
        notifier.changed(subject, *revision);
    }
    let payload = notifier.take_payload();
    (notifier, payload)
}

proptest! {
    #[test]
    fn a_payload_names_a_few_changes_and_not_many(changes in changes(300)) {
        let (notifier, payload) = pending(&changes);
        prop_assert!(payload.len() <= MAX_PAYLOAD);
        let named = match payload.as_str() {
            "" => Notification::ReadLog,
            _ => Notification::Own(changes.clone()),
        };
        prop_assert_eq!(notifier.parse(&payload), named.clone());
        prop_assert!(changes.len() > 100 || named != Notification::ReadLog, "{} could be named", changes.len());
        prop_assert_eq!(notifier.take_payload(), "", "the queue is empty");
    }

    #[test]
    fn another_replica_recognizes_a_foreign_payload(changes in changes(20)) {
        let (_, payload) = pending(&changes);
        prop_assert_eq!(Notifier::new().parse(&payload), Notification::Others(changes));
    }

    #[test]
    fn an_arbitrary_payload_is_never_recognized_as_own(payload in ".{0,80}") {
        let notified = Notifier::new().parse(&payload);
        prop_assert!(matches!(notified, Notification::ReadLog | Notification::Others(_)));
    }
}

#[test]
fn a_catalog_change_or_a_malformed_payload_means_read_the_log() {
    let notifier = Notifier::new();
    notifier.changed(&"user_1".parse().unwrap(), 1);
    notifier.read_log();
    assert_eq!(notifier.take_payload(), "");
    for payload in ["", "x", "x user_1", "x user_1 one", "x user_1 1 org_2", "x nobody 1"] {
        assert_eq!(notifier.parse(payload), Notification::ReadLog, "{payload:?}");
    }
}
