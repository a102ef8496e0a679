//! The workspace root. It owns the top-level `tests/` and `examples/`; the library is the crate `zproc`.
