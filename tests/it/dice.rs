//! Random numbers that are the same in every run.

/// A xorshift64 generator.
pub struct Dice(u64);

impl Dice {
    pub fn new() -> Self {
        Self(0x5eed)
    }

    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    pub fn pick<T: Clone>(&mut self, things: &[T]) -> T {
        things[self.roll(things.len())].clone()
    }

    /// The same things in a random order, about one in three of them twice.
    pub fn shuffled<T: Clone>(&mut self, things: &[T]) -> Vec<T> {
        let mut all = things.to_vec();
        all.extend(things.iter().filter(|_| self.roll(3) == 0).cloned());
        for i in (1..all.len()).rev() {
            all.swap(i, self.roll(i + 1));
        }
        all
    }
}
