//! Keys, and the order in which both sides of a comparison use them.

/// A small generator of random numbers (xorshift64), the same on every run.
#[derive(Debug)]
pub struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(0x9E37_79B9_7F4A_7C15)
    }
}

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }

    /// Puts items into an order of which each is as likely.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (2..=items.len()).rev() {
            items.swap(end - 1, self.below(end));
        }
    }
}

/// So many different keys of 20 bytes, for the rest of the program.
pub fn distinct(count: usize) -> &'static [String] {
    let mut random = Random::default();
    let keys: Vec<String> = (0..count).map(|_| format!("{:020}", random.number())).collect();
    keys.leak()
}

/// Passes until the same keys come again.
const PASSES: usize = 16;

/// Keys drawn at random, in passes.
///
/// A pass is short beside the time that a scheduler lets a process run, so that on a busy machine most are whole, and
/// all of them are too long for a branch predictor to learn. The texts are at hand: how they are fetched is not what is
/// measured.
pub struct Draws {
    keys: Vec<&'static str>,
}

impl Draws {
    /// Passes of `length` draws from `keys`.
    pub fn from(keys: &'static [String], length: usize) -> Self {
        let mut random = Random(0xD1B5_4A32_D192_ED03);
        let draw = |_| keys[random.below(keys.len())].as_str();
        Self {
            keys: (0..PASSES * length).map(draw).collect(),
        }
    }

    /// The keys of the pass with this number.
    pub fn pass(&self, number: usize) -> &[&'static str] {
        let length = self.keys.len() / PASSES;
        &self.keys[number % PASSES * length..][..length]
    }

    /// Another pass than `number`: the reference's in a round, which would otherwise find in the cache what ours has
    /// just fetched, or the other way round. Over all rounds both go through the same keys in the same order.
    pub fn opposite(number: usize) -> usize {
        number + PASSES / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_twenty_bytes_and_differ() {
        let keys = distinct(1000);
        assert!(keys.iter().all(|key| key.len() == 20));
        assert_eq!(keys.iter().collect::<std::collections::HashSet<_>>().len(), 1000);
        let draws = Draws::from(keys, 5);
        assert_eq!(draws.pass(3), draws.pass(3 + PASSES));
        assert_ne!(draws.pass(3), draws.pass(Draws::opposite(3)));
    }
}
