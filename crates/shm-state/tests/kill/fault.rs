//! Planted faults: deliberate mistakes in the engine, to show that the sweep would notice them.

/// Makes the engine of this process, and of those forked from it, commit a mistake.
pub fn plant(name: &str) {
    panic!("no fault is named {name:?}");
}
