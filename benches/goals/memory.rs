//! Bytes.

use std::collections::HashMap;

use zproc_bench::heap::bytes_taken_by;
use zproc_bench::keys::distinct;
use zproc_bench::rounds::Spread;
use zproc_bench::table::{Goal, Limit, Measured, Unit};

use crate::subject::Subject;
use crate::{Bench, Row};

const KEYS: usize = 10_000;

/// The rows.
pub const ROWS: &[Row] = &[Row::alone(
    Goal {
        work: "bytes, 10,000 keys of 8 bytes, without log",
        limit: Limit::AtMost(2.5),
        reference: "the same HashMap",
        unit: Unit::Bytes,
    },
    bytes,
)];

fn bytes(_: &Bench) -> Measured {
    let keys = distinct(KEYS);
    let (map, heap) = bytes_taken_by(|| keys.iter().cloned().zip(0u64..).collect::<HashMap<_, _>>());
    drop(map);
    let subject = Subject::new(KEYS);
    let stats = subject.state.stats().expect("the lock is free");
    let stats = &stats.namespaces[0];
    let [ours, reference] = [stats.live_bytes as f64, heap as f64].map(|bytes| bytes / KEYS as f64);
    let ratio = ours / reference;
    let ratio = Spread {
        p10: ratio,
        median: ratio,
        p90: ratio,
    };
    let old = (stats.retired_bytes + stats.free_bytes) as f64 / KEYS as f64;
    let note = format!(
        "beside it, {old:.1} B/key retired and free, {} bytes of log and control",
        stats.control_bytes
    );
    Measured {
        figure: ours,
        against: Some((reference, Some(ratio))),
        note,
    }
}
