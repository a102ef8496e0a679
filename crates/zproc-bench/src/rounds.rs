//! Comparing by turns.
//!
//! The speed of a machine drifts within seconds. A round measures both sides one right after the other, so that they
//! share whatever state the machine is in; what is reported is the median of the rounds' ratios, and not the ratio of
//! two medians.

/// Where the values of many rounds lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// A tenth of the values are below.
    pub p10: f64,
    /// Half of them are below.
    pub median: f64,
    /// A tenth of them are above.
    pub p90: f64,
}

impl Spread {
    /// The spread of `values`, of which there must be one.
    pub fn of(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "no round was measured");
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
        Self {
            p10: at(0.1),
            median: at(0.5),
            p90: at(0.9),
        }
    }
}

/// What one round measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Round {
    /// The figure of ours.
    pub ours: f64,
    /// That of the reference.
    pub reference: f64,
}

/// All rounds of a comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Median of ours.
    pub ours: f64,
    /// Median of the reference.
    pub reference: f64,
    /// Ours by the reference, round by round.
    pub ratio: Spread,
}

impl Comparison {
    /// Sums rounds up.
    pub fn of(rounds: &[Round]) -> Self {
        let spread = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of).collect());
        Self {
            ours: spread(|round| round.ours).median,
            reference: spread(|round| round.reference).median,
            ratio: spread(|round| round.ours / round.reference),
        }
    }
}

/// Measures both, the one that goes first changing from round to round.
pub fn take_turns(number: usize, ours: impl FnOnce() -> f64, reference: impl FnOnce() -> f64) -> Round {
    if number.is_multiple_of(2) {
        let ours = ours();
        Round {
            ours,
            reference: reference(),
        }
    } else {
        let reference = reference();
        Round {
            ours: ours(),
            reference,
        }
    }
}

/// Compares in `count` rounds, after one that warms both sides up. Both are told the number of the round.
pub fn compare(
    count: usize,
    mut ours: impl FnMut(usize) -> f64,
    mut reference: impl FnMut(usize) -> f64,
) -> Comparison {
    let mut round = |number| take_turns(number, || ours(number), || reference(number));
    round(0);
    Comparison::of(&(0..count).map(round).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drift_that_both_sides_share_leaves_the_ratio_alone() {
        let rounds: Vec<Round> = (1..=9)
            .map(|n| Round {
                ours: 3.0 * f64::from(n),
                reference: f64::from(n),
            })
            .collect();
        let comparison = Comparison::of(&rounds);
        assert_eq!((comparison.ours, comparison.reference), (15.0, 5.0));
        assert_eq!(
            comparison.ratio,
            Spread {
                p10: 3.0,
                median: 3.0,
                p90: 3.0
            }
        );
    }
}
