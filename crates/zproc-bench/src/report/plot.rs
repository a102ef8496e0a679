//! The plots. The ground is white, so that they can be read on a page of any colour; lines differ in colour and in the
//! shape of their points.

use std::path::Path;

use plotters::prelude::*;

use super::OURS;
use crate::workloads::{Column, Group};

const SIZE: (u32, u32) = (860, 500);

/// For those who cannot tell red from green, too.
const COLOURS: [RGBColor; 10] = [
    RGBColor(0, 90, 181),
    RGBColor(213, 94, 0),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(150, 30, 30),
    RGBColor(90, 90, 90),
    RGBColor(86, 180, 233),
    RGBColor(120, 94, 240),
    RGBColor(0, 0, 0),
];

/// A line: what it is called, and where it goes.
type Curve = (&'static str, Vec<(f64, f64)>);

struct Plot<'p> {
    file: &'p str,
    caption: &'p str,
    x: &'p str,
    y: &'p str,
}

/// Draws all plots for which there are figures.
pub fn draw_all(directory: &Path, groups: &[Group]) -> Result<(), String> {
    let group = |id: &str| groups.iter().find(|group| group.id == id);
    let by_x = [
        ("get", "get-by-keys.svg", "get, by number of keys", "keys"),
        ("set", "set-by-keys.svg", "set, by number of keys", "keys"),
        ("get by size", "get-by-size.svg", "get, by size of the value", "bytes"),
        ("set by size", "set-by-size.svg", "set, by size of the value", "bytes"),
        (
            "watchers",
            "watchers.svg",
            "from a write until the last of many watchers has it",
            "watchers",
        ),
    ];
    for (id, file, caption, x) in by_x {
        if let Some(group) = group(id) {
            let plot = Plot {
                file,
                caption,
                x,
                y: "ns",
            };
            plot.draw(directory, &medians(group))?;
        }
    }
    let distributions = [
        (
            "notify",
            "spinning",
            "latency-spinning.svg",
            "from a write until a spinning watcher has it",
        ),
        (
            "notify",
            "asleep for 1 ms",
            "latency-asleep.svg",
            "from a write until a sleeping watcher has it",
        ),
        (
            "control loop",
            "1 kHz",
            "jitter-1khz.svg",
            "control loop at 1 kHz: from tick to controller",
        ),
        (
            "control loop",
            "10 kHz",
            "jitter-10khz.svg",
            "control loop at 10 kHz: from tick to controller",
        ),
    ];
    for (id, name, file, caption) in distributions {
        let column = group(id).and_then(|group| group.columns.iter().find(|column| column.name == name));
        if let Some(column) = column {
            let plot = Plot {
                file,
                caption,
                x: "µs",
                y: "share that took longer",
            };
            plot.draw(directory, &tails(column))?;
        }
    }
    Ok(())
}

/// Medians over the columns.
fn medians(group: &Group) -> Vec<Curve> {
    let mut names: Vec<&'static str> = Vec::new();
    for line in group.columns.iter().flat_map(|column| &column.lines) {
        if !names.contains(&line.name) {
            names.push(line.name);
        }
    }
    let curve = |name| {
        let point = |column: &Column| Some((column.x, column.line(name)?.spread()?.median));
        (name, group.columns.iter().filter_map(point).collect())
    };
    names.into_iter().map(curve).collect()
}

/// Which share of the events took longer than a time.
fn tails(column: &Column) -> Vec<Curve> {
    let tail = |events: &[u64]| {
        let mut events = events.to_vec();
        events.sort_unstable();
        let count = events.len();
        // Steps that are even on a logarithmic axis.
        let mut points = Vec::new();
        let mut left = count as f64;
        while left >= 1.0 {
            let index = count - left as usize;
            points.push((events[index] as f64 / 1e3, left / count as f64));
            left *= 0.85;
        }
        points.extend(events.last().map(|ns| (*ns as f64 / 1e3, 1.0 / count as f64)));
        points
    };
    let lines = column.lines.iter().filter(|line| !line.events_ns.is_empty());
    lines.map(|line| (line.name, tail(&line.events_ns))).collect()
}

impl Plot<'_> {
    fn draw(&self, directory: &Path, curves: &[Curve]) -> Result<(), String> {
        let path = directory.join(self.file);
        self.draw_to(&path, curves)
            .map_err(|error| format!("{}: {error}", path.display()))
    }

    fn draw_to(&self, path: &Path, curves: &[Curve]) -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::new(path, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let points = || curves.iter().flat_map(|(_, points)| points);
        let (xs, ys) = (
            range(points().map(|point| point.0)),
            range(points().map(|point| point.1)),
        );
        let mut chart = ChartBuilder::on(&root)
            .caption(self.caption, ("sans-serif", 20))
            .margin(16)
            .margin_right(190)
            .x_label_area_size(44)
            .y_label_area_size(70)
            .build_cartesian_2d(xs.clone().log_scale(), ys.clone().log_scale())?;
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .label_style(("sans-serif", 14))
            .axis_desc_style(("sans-serif", 15))
            .light_line_style(RGBColor(240, 240, 240))
            .bold_line_style(RGBColor(215, 215, 215))
            .x_label_formatter(&|value| plain(*value))
            .y_label_formatter(&|value| plain(*value))
            .draw()?;
        for (index, ((name, points), colour)) in curves.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let width = if *name == OURS { 4 } else { 2 };
            chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(width)))?;
            if points.len() < 12 {
                chart.draw_series(points.iter().map(|point| Circle::new(*point, width, colour.filled())))?;
            }
            let (left, top) = (SIZE.0 as i32 - 182, 60 + 26 * index as i32);
            root.draw(&PathElement::new(
                [(left, top), (left + 22, top)],
                colour.stroke_width(width + 1),
            ))?;
            let style = ("sans-serif", 15).into_font().color(&BLACK);
            root.draw(&Text::new(*name, (left + 30, top - 8), style))?;
        }
        root.present()?;
        Ok(())
    }
}

/// From the decade that the least is in to the end of the one that the largest is in.
fn range(values: impl Iterator<Item = f64> + Clone) -> std::ops::Range<f64> {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let largest = values.fold(f64::MIN_POSITIVE, f64::max);
    let from = 10f64.powf(least.min(largest).log10().floor());
    from..10f64.powf((largest * 0.9999).log10().ceil())
}

/// As people write it.
fn plain(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{} M", value / 1e6),
        value if value >= 1e4 => format!("{} k", value / 1e3),
        value => format!("{}", (value * 1e9).round() / 1e9),
    }
}
