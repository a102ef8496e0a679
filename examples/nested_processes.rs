//! Nested processes: each generation starts the next, and all share one state. When the eldest is stopped, its whole
//! family ends with it.
//!
//! ```text
//! cargo run --example nested_processes
//! ```

use zproc::{Context, Result};

const GENERATIONS: u32 = 5;

fn generation(ctx: Context, number: u32) -> Result<()> {
    let state = ctx.state();
    state.insert(("generation", number), std::process::id())?;
    if number < GENERATIONS {
        ctx.process(generation).args(number + 1).start()?;
    }
    // Its children end with it, and it ends with its parent.
    state.get_when_available("never").map(drop)
}

fn main() -> Result<()> {
    zproc::init();
    let ctx = Context::new()?;
    let eldest = ctx.process(generation).args(1).start()?;
    let family = ctx.state().get_when_available(("generation", GENERATIONS))?;
    for number in 1..=GENERATIONS {
        let pid: u32 = family.get(("generation", number))?.unwrap_or_default();
        println!("generation {number} is process {pid}");
    }
    let code = eldest.stop()?;
    println!("the eldest ended with exit code {code}, and the others with it");
    Ok(())
}
