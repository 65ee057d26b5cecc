//! A random number generator with a fixed seed, so that every run is the same.

/// A xorshift64 generator.
pub struct Rng(u64);

impl Rng {
    pub fn new() -> Self {
        Self(0x5eed)
    }

    pub fn below(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    pub fn pick<T: Clone>(&mut self, things: &[T]) -> T {
        things[self.below(things.len())].clone()
    }

    /// Returns the things in a random order, about one in three of them twice.
    pub fn shuffled<T: Clone>(&mut self, things: &[T]) -> Vec<T> {
        let mut all = things.to_vec();
        all.extend(things.iter().filter(|_| self.below(3) == 0).cloned());
        for i in (1..all.len()).rev() {
            all.swap(i, self.below(i + 1));
        }
        all
    }
}
