//! Long work in pieces: between two of them other tasks have their turn, and the deadline of the call can end it.

use tokio::task::yield_now;

/// The work of one piece, in items looked at: less than a millisecond, and more than most batches are.
const PIECE: usize = 4_096;
/// What an answer costs beside its items, in items.
const ANSWER: usize = 8;

/// Counts work, and gives way after each piece.
#[derive(Debug, Default)]
pub struct Pieces(usize);

impl Pieces {
    /// Call it after each answer that was decided from so many items.
    pub async fn answered(&mut self, items: usize) {
        self.0 += items + ANSWER;
        if self.0 >= PIECE {
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
        let mut pieces = Pieces::default();
        for _ in 0..2 {
            assert!(poll!(pin!(pieces.answered(PIECE / 2))).is_ready());
            let mut second = pin!(pieces.answered(PIECE / 2));
            assert!(poll!(second.as_mut()).is_pending());
            assert!(poll!(second).is_ready());
        }
    }
}
