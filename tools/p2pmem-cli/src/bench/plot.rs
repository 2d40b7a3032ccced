// SPDX-License-Identifier: GPL-2.0

//! Draws what was measured.

use anyhow::{ensure, Result};
use plotters::prelude::*;

use super::{
    report::{BenchReport, Row},
    subject::{Kind, What},
};
use p2pmem::size;

/// Width of the picture, of what explains the lines, height of each chart and of what is above all,
/// in pixels.
const WIDTH: u32 = 1560;
const LEGEND: u32 = 320;
const HEIGHT: u32 = 440;
const HEAD: u32 = 96;
const FONT: &str = "sans-serif";

/// Returns a colour for each kind of memory, which people with any eyes can tell apart.
fn colour(kind: Kind) -> RGBColor {
    match kind {
        Kind::Mainline => RGBColor(0, 114, 178),
        Kind::Mapped => RGBColor(213, 94, 0),
        Kind::Registered => RGBColor(0, 158, 115),
        Kind::Ordinary => RGBColor(204, 121, 167),
        Kind::OrdinaryRegistered => RGBColor(230, 159, 0),
        Kind::WriteCombining => RGBColor(86, 180, 233),
        Kind::Frames => RGBColor(0, 0, 0),
    }
}

/// The subject of a chart. Rows of one chart differ in the kind of memory and in size only.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Subject {
    what: What,
    depth: u32,
    threads: u32,
}

impl Subject {
    fn of(row: &Row) -> Self {
        Self {
            what: row.what,
            depth: row.depth,
            threads: row.threads,
        }
    }

    fn title(&self) -> String {
        let mut title = self.what.to_string();
        if self.what.has_depth() {
            title += &format!(", depth {}", self.depth);
        }
        if self.threads > 1 {
            title += &format!(", {} threads", self.threads);
        }
        title
    }
}

/// Returns an SVG with a pair of charts for all that was compared: time and rate over size, all of
/// it logarithmic, with a line for each kind of memory. The lines are those of the fastest rounds,
/// and strokes go from there to the slowest.
///
/// # Errors
///
/// There is nothing to draw.
pub fn svg(report: &BenchReport) -> Result<String> {
    let mut subjects: Vec<Subject> = Vec::new();
    for row in &report.rows {
        if !subjects.contains(&Subject::of(row)) {
            subjects.push(Subject::of(row));
        }
    }
    ensure!(
        !subjects.is_empty(),
        "nothing was measured that could be drawn"
    );

    let mut text = String::new();
    {
        let size = (WIDTH, HEAD + HEIGHT * subjects.len() as u32);
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE)?;
        let (head, charts) = area.split_vertically(HEAD);
        for (number, line) in (0..).zip(report.setup.to_string().lines()) {
            let place = (16, 12 + 26 * number);
            head.draw(&Text::new(line.to_owned(), place, (FONT, 18)))?;
        }
        for (part, subject) in charts
            .split_evenly((subjects.len(), 1))
            .iter()
            .zip(subjects)
        {
            let rows: Vec<_> = report
                .rows
                .iter()
                .filter(|row| Subject::of(row) == subject)
                .collect();
            let (pair, legend) = part.split_horizontally(WIDTH - LEGEND);
            let (left, right) = pair.split_horizontally((WIDTH - LEGEND) / 2);
            chart(&left, &subject.title(), "time", &rows, &time, &|row| {
                (row.seconds.min, row.seconds.max)
            })?;
            chart(&right, &subject.title(), "rate", &rows, &rate, &|row| {
                let fastest = row.bytes_per_second / f64::from(1 << 20);
                (fastest, fastest * row.seconds.min / row.seconds.max)
            })?;
            explain(&legend, &rows)?;
        }
        area.present()?;
    }

    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Draws a chart of values, each with that of the fastest round and that of the slowest.
fn chart(
    area: &Area<'_>,
    title: &str,
    name: &str,
    rows: &[&Row],
    label: &dyn Fn(f64) -> String,
    value: &dyn Fn(&Row) -> (f64, f64),
) -> Result<()> {
    let sizes = rows.iter().map(|row| row.size as f64);
    let values = rows.iter().flat_map(|row| <[f64; 2]>::from(value(row)));
    let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::MAX, f64::min);
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    let (left, right) = (least(&mut sizes.clone()), most(&mut sizes.clone()));
    // From one power of ten to another, which have their labels; the last one is within the range.
    let low = 10_f64.powf(least(&mut values.clone()).log10().floor());
    let high = 10_f64.powf(most(&mut values.clone()).log10().floor() + 1.0) * 1.01;

    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 24))
        .margin(16)
        .x_label_area_size(56)
        .y_label_area_size(100)
        .build_cartesian_2d(
            // With some space around, also if there is one size only.
            (left / 2.0..right * 2.0).log_scale().base(2.0),
            (low..high).log_scale(),
        )?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        // Powers of two and of ten only.
        .x_labels((right / left).log2() as usize + 3)
        .y_labels(9)
        .label_style((FONT, 16))
        .x_desc("size")
        .y_desc(name)
        .x_label_formatter(&|&bytes| size::format(bytes.round() as u64))
        .y_label_formatter(&|&value| label(value))
        .draw()?;

    for kind in kinds(rows) {
        let style = colour(kind).stroke_width(2);
        let own = || rows.iter().filter(|row| row.kind == kind);
        let points = own().map(|row| (row.size as f64, value(row).0));
        chart.draw_series(LineSeries::new(points, style).point_size(3))?;
        chart.draw_series(own().map(|row| {
            let (fastest, slowest) = value(row);
            let size = row.size as f64;
            PathElement::new([(size, fastest), (size, slowest)], colour(kind).mix(0.6))
        }))?;
    }
    Ok(())
}

/// Names the lines.
fn explain(area: &Area<'_>, rows: &[&Row]) -> Result<()> {
    for (number, kind) in (0..).zip(kinds(rows)) {
        let y = 60 + 24 * number;
        let line = [(0, y), (24, y)];
        area.draw(&PathElement::new(line, colour(kind).stroke_width(2)))?;
        area.draw(&Text::new(kind.to_string(), (32, y - 6), (FONT, 14)))?;
    }
    Ok(())
}

/// Returns the lines of a chart, in the order of the rows.
fn kinds(rows: &[&Row]) -> Vec<Kind> {
    let mut found = Vec::new();
    for row in rows {
        if !found.contains(&row.kind) {
            found.push(row.kind);
        }
    }
    found
}

/// Writes a power of ten of a time.
fn time(seconds: f64) -> String {
    match seconds {
        ..0.99e-6 => format!("{:.0} ns", seconds * 1e9),
        ..0.99e-3 => format!("{:.0} us", seconds * 1e6),
        ..0.99 => format!("{:.0} ms", seconds * 1e3),
        _ => format!("{seconds:.0} s"),
    }
}

/// Writes a power of ten of a rate in MiB/s.
fn rate(rate: f64) -> String {
    match rate {
        ..0.99 => format!("{rate:.3} MiB/s"),
        _ => format!("{rate:.0} MiB/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::Spread;

    fn row(what: What, kind: Kind, size: u64, depth: u32) -> Row {
        let min = size as f64 / 1e10;
        Row {
            what,
            kind,
            size,
            depth,
            threads: 1,
            seconds: Spread {
                min,
                median: min * 1.1,
                max: min * 1.5,
            },
            bytes_per_second: 1e10,
            baseline: Kind::Mainline,
            ratio: 1.0,
        }
    }

    #[test]
    fn each_kind_has_its_line() {
        let rows = vec![
            row(What::Map, Kind::Mainline, 4096, 1),
            row(What::Map, Kind::Mainline, 65536, 1),
            row(What::Map, Kind::Mapped, 4096, 1),
            row(What::Store, Kind::WriteCombining, 1 << 20, 1),
        ];
        let report = BenchReport {
            rows,
            ..BenchReport::default()
        };
        let text = svg(&report).unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
        for word in [
            "map, touch",
            "store by",
            "write-combining",
            "the node, mapped",
            "64 KiB",
            "MiB/s",
            "clearing is off",
        ] {
            assert!(text.contains(word), "{word} is not in {text}");
        }
        assert!(!text.contains("depth"));
        assert!(svg(&BenchReport::default()).is_err());
    }

    #[test]
    fn each_depth_has_its_charts_of_five_lines() {
        let mut rows = Vec::new();
        for depth in [1, 16] {
            for size in [4096, 65536] {
                for kind in What::Read.kinds() {
                    rows.push(row(What::Read, *kind, size, depth));
                }
            }
        }
        for depth in [1, 16] {
            let subject = rows.iter().filter(|row| row.depth == depth);
            assert_eq!(kinds(&subject.collect::<Vec<_>>()).len(), 5);
        }
        let text = svg(&BenchReport {
            rows,
            ..BenchReport::default()
        })
        .unwrap();
        // Time and rate of each.
        for title in ["depth 1\n", "depth 16\n"] {
            assert_eq!(text.matches(title).count(), 2, "{title}: {text}");
        }
    }

    #[test]
    fn times_have_units() {
        for (seconds, text) in [
            (1e-8, "10 ns"),
            (1e-6, "1 us"),
            (2e-2, "20 ms"),
            (3.0, "3 s"),
        ] {
            assert_eq!(time(seconds), text);
        }
    }
}
