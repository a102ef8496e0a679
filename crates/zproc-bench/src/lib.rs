//! Benchmarks of zproc; see the files in the top-level `benches/`.
