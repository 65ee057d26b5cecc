//! What tests of the whole service cannot provoke.

use super::{Unavailable, lost_load};

#[tokio::test]
async fn a_load_that_panicked_is_told_as_a_fault_of_this_service() {
    let load = tokio::spawn(async { panic!("on purpose") });
    let lost = load.await.unwrap_err();
    assert!(matches!(lost_load(&lost), Unavailable::Internal));
}
