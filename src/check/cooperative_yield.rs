//! Cooperative yielding in long calls: other tasks run in between, and the deadline of the call can end it.

use tokio::task::yield_now;

/// Items examined between two yields: less than a millisecond of work, and more than most batches have.
const ITEMS_PER_YIELD: usize = 4_096;
/// The fixed cost of an answer, in items.
const ITEMS_PER_ANSWER: usize = 8;

/// Counts the items examined, and yields whenever there were enough.
#[derive(Debug, Default)]
pub struct CooperativeYield(usize);

impl CooperativeYield {
    /// Counts one answer that examined so many items, and yields if it is time. Call it after each answer.
    pub async fn answered(&mut self, items: usize) {
        self.0 += items + ITEMS_PER_ANSWER;
        if self.0 >= ITEMS_PER_YIELD {
            self.0 = 0;
            yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::poll;
    use std::pin::pin;

    #[tokio::test]
    async fn work_gives_way_after_each_piece_and_not_before() {
        let mut yielding = CooperativeYield::default();
        for _ in 0..2 {
            assert!(poll!(pin!(yielding.answered(ITEMS_PER_YIELD / 2))).is_ready());
            let mut second = pin!(yielding.answered(ITEMS_PER_YIELD / 2));
            assert!(poll!(second.as_mut()).is_pending());
            assert!(poll!(second).is_ready());
        }
    }
}
