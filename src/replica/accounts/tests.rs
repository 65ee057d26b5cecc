//! Cases that tests of the whole service cannot cause.

use super::{Unavailable, load_task_error};

#[tokio::test]
async fn a_load_that_panicked_is_reported_as_a_fault_of_this_service() {
    let load = tokio::spawn(async { panic!("on purpose") });
    let error = load.await.unwrap_err();
    assert!(matches!(load_task_error(&error), Unavailable::Internal));
}
