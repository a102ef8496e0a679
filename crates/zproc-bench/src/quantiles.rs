//! Where the times of many events lie.

use crate::table::Time;

/// Times in nanoseconds, of which there is one at least.
pub struct Quantiles(Vec<u64>);

impl Quantiles {
    /// Those of some times.
    pub fn of(mut times: Vec<u64>) -> Self {
        assert!(!times.is_empty(), "nothing was measured");
        times.sort_unstable();
        Self(times)
    }

    /// The time that this share of the events did not exceed: 0.5 for the median, 1 for the largest.
    pub fn at(&self, share: f64) -> u64 {
        self.0[((self.0.len() - 1) as f64 * share).ceil() as usize]
    }

    /// The same, as text.
    pub fn time(&self, share: f64) -> String {
        Time(self.at(share) as f64).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_not_exceeded_by_its_share() {
        let times = Quantiles::of((1..=1000).rev().collect());
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| times.at(share)), [1, 501, 991, 1000]);
        assert_eq!(Quantiles::of(vec![7]).time(0.5), "7.0 ns");
    }
}
