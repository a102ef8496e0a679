//! Cookie eater: one process bakes cookies, another eats each of them.
//!
//! ```text
//! cargo run --example cookie_eater
//! ```

use zproc::{Context, Result, State};

fn eater(state: State, meals: u32) -> Result<u32> {
    for _ in 0..meals {
        state.get_when_change(["cookies"])?; // buffered: misses nothing since start()
        state.atomic(|dict| dict.modify("cookies", |n: i64| n - 1))?;
        println!("nom nom");
    }
    Ok(meals)
}

fn main() -> Result<()> {
    zproc::init(); // a child starts here and goes no further
    let ctx = Context::new()?;
    let state = ctx.state();
    state.insert("cookies", 0)?;
    let eater = ctx.process(eater).args(5).start()?;
    for _ in 0..5 {
        state.atomic(|dict| dict.modify("cookies", |n: i64| n + 1))?;
        println!("here's a cookie!");
    }
    println!("eaten: {}", eater.wait()?);
    println!("left: {}", state.get::<i64>("cookies")?.unwrap_or_default());
    Ok(())
}
