//! Downloader: fetches many pages by several processes, and shows how far it is.
//!
//! ```text
//! cargo run --example downloader [FILE]...
//! ```
//!
//! The pages are files here, those that are named or some that it writes first, so that it runs without a network. What a
//! worker does with one is what it would do with a page: it reads, takes its time, counts words, and may fail.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use zproc::{Context, Error, Result};

const PAGES: usize = 40;

/// Title and number of words of a page.
fn fetch(page: PathBuf) -> Result<(String, usize)> {
    let text = std::fs::read_to_string(&page).map_err(Error::other)?;
    std::thread::sleep(Duration::from_millis(5)); // the network
    let title = text.lines().next().unwrap_or_default().to_owned();
    Ok((title, text.split_whitespace().count()))
}

fn main() -> Result<()> {
    zproc::init();
    let named: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let own = std::env::temp_dir().join(format!("zproc-downloader-{}", std::process::id()));
    let pages = if named.is_empty() {
        write_pages(&own).map_err(Error::other)?
    } else {
        named
    };
    let result = download(&pages);
    if own.exists() {
        std::fs::remove_dir_all(&own).map_err(Error::other)?;
    }
    result
}

fn download(pages: &[PathBuf]) -> Result<()> {
    let ctx = Context::new()?;
    let bar = ProgressBar::new(pages.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} pages") {
        bar.set_style(style);
    }
    let fetched = ctx
        .process_map(fetch, pages.to_vec())
        .count(4)
        .progress(|progress| bar.set_position(progress.done))
        .start()?;
    let (mut words, mut failed) = (0, 0);
    for (page, result) in pages.iter().zip(fetched) {
        match result {
            Ok((title, count)) => {
                words += count;
                println!("{title}: {count} words");
            }
            Err(error) => {
                failed += 1;
                println!("{}: {error}", page.display());
            }
        }
    }
    bar.finish();
    println!(
        "{words} words in {} pages, {failed} failed, by {} workers",
        pages.len() - failed,
        ctx.workers().len()
    );
    Ok(())
}

/// Writes some pages; one of them is missing.
fn write_pages(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    std::fs::create_dir(directory)?;
    let pages: Vec<PathBuf> = (0..PAGES).map(|n| directory.join(format!("page-{n}"))).collect();
    for (n, page) in pages.iter().enumerate().filter(|(n, _)| *n != PAGES / 2) {
        std::fs::write(page, format!("Page {n}\n{}", "word ".repeat(n)))?;
    }
    Ok(pages)
}
