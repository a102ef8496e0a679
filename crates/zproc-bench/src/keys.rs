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
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// So many different keys of 20 bytes, for the rest of the program.
pub fn distinct(count: usize) -> &'static [String] {
    let mut random = Random::default();
    let keys: Vec<String> = (0..count).map(|_| format!("{:020}", random.next())).collect();
    keys.leak()
}

/// Keys drawn at random: too long a sequence for a branch predictor to learn, with the texts at hand, so that what is
/// measured is not how they are fetched.
pub fn draw(keys: &'static [String], length: usize) -> Vec<&'static str> {
    let mut random = Random(0xD1B5_4A32_D192_ED03);
    (0..length).map(|_| keys[random.below(keys.len())].as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_twenty_bytes_and_differ() {
        let keys = distinct(1000);
        assert!(keys.iter().all(|key| key.len() == 20));
        assert_eq!(keys.iter().collect::<std::collections::HashSet<_>>().len(), 1000);
        assert_eq!(draw(keys, 5), draw(keys, 5));
    }
}
