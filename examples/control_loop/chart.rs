//! The picture: how often a controller had its tick how late.

use std::path::Path;

use hdrhistogram::Histogram;
use plotters::prelude::*;

use crate::Result;
use crate::plant::Ran;

/// Both axes are logarithmic: what matters is the one in ten thousand, at a hundred times the usual.
const BINS_A_DECADE: f64 = 20.0;
const SIZE: (u32, u32) = (860, 480);

/// One for each loop; they differ in brightness too.
const COLOURS: [RGBColor; 2] = [RGBColor(31, 99, 181), RGBColor(214, 110, 20)];

/// Draws a file. The ground is white, so that it can be read on a page of any colour.
pub fn draw(path: &Path, loops: &[Ran]) -> Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let largest = loops.iter().map(|ran| ran.lateness.max()).max().unwrap_or(1);
    let least = loops.iter().map(|ran| ran.lateness.min()).min().unwrap_or(1);
    let from = 10f64.powf((micros(least.max(100))).log10().floor());
    let to = 10f64.powf((micros(largest.max(100_000)) * 1.01).log10().ceil());
    let bins: Vec<Vec<(f64, f64, u64)>> = loops.iter().map(|ran| bins(&ran.lateness)).collect();
    let most = bins.iter().flatten().map(|(_, _, count)| *count).max().unwrap_or(1);
    let mut chart = ChartBuilder::on(&root)
        .caption(
            "From when a tick was due until its controller had it",
            ("sans-serif", 20),
        )
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((from..to).log_scale(), (0.5..2.0 * most as f64).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("µs")
        .y_desc("ticks")
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .light_line_style(RGBColor(235, 235, 235))
        .x_label_formatter(&|value| format!("{value}"))
        .y_label_formatter(&|value| format!("{value}"))
        .draw()?;
    for ((ran, bins), colour) in loops.iter().zip(&bins).zip(COLOURS) {
        // Each bin as a step of an outline, so that two histograms can lie over each other.
        let outline = bins
            .iter()
            .flat_map(|&(left, right, count)| [(left, count), (right, count)])
            .map(|(at, count)| (at, (count as f64).max(0.5)));
        chart
            .draw_series(AreaSeries::new(outline, 0.5, colour.mix(0.18)).border_style(colour.stroke_width(2)))?
            .label(format!("{}: {} missed", ran.name, ran.missed))
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE)
        .border_style(RGBColor(160, 160, 160))
        .label_font(("sans-serif", 15))
        .draw()?;
    Ok(root.present()?)
}

/// Bins of equal width on a logarithmic axis: ends in microseconds, and how many lie between them.
fn bins(histogram: &Histogram<u64>) -> Vec<(f64, f64, u64)> {
    let bin = |ns: u64| (micros(ns.max(1)).log10() * BINS_A_DECADE).floor() as i32;
    let edge = |bin: i32| 10f64.powf(f64::from(bin) / BINS_A_DECADE);
    let (first, last) = (bin(histogram.min()), bin(histogram.max()));
    let mut counts = vec![0; (last - first + 1).max(1) as usize];
    for at in histogram.iter_recorded() {
        let index = (bin(at.value_iterated_to()) - first).clamp(0, last - first);
        counts[index as usize] += at.count_at_value();
    }
    let bins = (first..)
        .zip(counts)
        .map(|(number, count)| (edge(number), edge(number + 1), count));
    bins.collect()
}

fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}
