//! Remote errors: what goes wrong in a child is told to its parent, with type, place and causes.
//!
//! ```text
//! cargo run --example remote_errors
//! ```

use std::time::Duration;

use zproc::{Context, Error, Process, Result, State};

fn misreads(_: State) -> Result<u32> {
    "twelve".parse().map_err(Error::other)
}

fn panics(state: State) -> Result<u32> {
    let cookies: Option<u32> = state.get("cookies")?;
    Ok(cookies.expect("somebody has baked"))
}

fn gives_up(state: State) -> Result<u32> {
    state
        .watch()
        .timeout(Duration::from_millis(10))
        .get_when_available("cookies")?;
    Ok(0)
}

fn is_killed(_: State) -> Result<u32> {
    std::process::abort()
}

fn main() -> Result<()> {
    // Before init, so that the children have it, too: what they tell is enough.
    std::panic::set_hook(Box::new(|_| {}));
    zproc::init();
    let ctx = Context::new()?;
    let all = ctx.process_factory([misreads, panics, gives_up, is_killed]).start()?;
    for process in &all {
        tell(process);
    }
    Ok(())
}

fn tell(process: &Process<u32>) {
    match process.wait() {
        Ok(value) => println!("a value: {value}"),
        Err(Error::ProcessWait { exit_code, source, .. }) => {
            println!("exit code {exit_code}");
            if let Some(source) = source {
                println!("  type     {}", source.type_name());
                println!("  message  {}", source.message());
                println!("  place    {}", source.location().unwrap_or("not known"));
                source.chain().for_each(|cause| println!("  because  {cause}"));
            }
        }
        Err(error) => println!("it could not be waited for: {error}"),
    }
}
