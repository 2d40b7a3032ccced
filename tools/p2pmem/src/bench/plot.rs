// SPDX-License-Identifier: GPL-2.0

//! Draws what was measured.

use anyhow::{ensure, Result};
use plotters::prelude::*;

use super::{Kind, Row, What};
use crate::size;

/// Width of the picture, of what explains the lines, and height of each chart, in pixels.
const WIDTH: u32 = 1280;
const LEGEND: u32 = 340;
const HEIGHT: u32 = 480;
const FONT: &str = "sans-serif";
/// Colours that people with any eyes can tell apart.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// Returns an SVG with a chart for all that was done: time over size, both logarithmic, with a line for
/// each kind of memory and depth.
///
/// # Errors
///
/// There is nothing to draw.
pub fn svg(rows: &[Row]) -> Result<String> {
    let mut done: Vec<What> = rows.iter().map(|row| row.what).collect();
    done.dedup();
    ensure!(!done.is_empty(), "nothing was measured that could be drawn");

    let mut text = String::new();
    {
        let size = (WIDTH, HEIGHT * done.len() as u32);
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE)?;
        for (part, what) in area.split_evenly((done.len(), 1)).iter().zip(done) {
            let rows: Vec<_> = rows.iter().filter(|row| row.what == what).collect();
            chart(part, what, &rows)?;
        }
        area.present()?;
    }

    Ok(text)
}

fn chart(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    what: What,
    rows: &[&Row],
) -> Result<()> {
    let sizes = rows.iter().map(|row| row.size as f64);
    let times = rows.iter().map(|row| row.nanoseconds);
    let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::MAX, f64::min);
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    let (left, right) = (least(&mut sizes.clone()), most(&mut sizes.clone()));
    // From one power of ten to another, which have their labels; the last one is within the range.
    let low = 10_f64.powf(least(&mut times.clone()).log10().floor());
    let high = 10_f64.powf(most(&mut times.clone()).log10().floor() + 1.0) * 1.01;

    let (area, legend) = area.split_horizontally(WIDTH - LEGEND);
    let mut chart = ChartBuilder::on(&area)
        .caption(what.to_string(), (FONT, 28))
        .margin(16)
        .x_label_area_size(56)
        .y_label_area_size(90)
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
        .label_style((FONT, 18))
        .x_desc("size")
        .y_desc("time")
        .x_label_formatter(&|&bytes| size::format(bytes.round() as u64))
        .y_label_formatter(&|&nanoseconds| time(nanoseconds))
        .draw()?;

    let mut kinds = Vec::new();
    let mut depths = Vec::new();
    for (number, (kind, depth)) in series(rows).into_iter().enumerate() {
        // A colour for each kind, paler for each further depth.
        let colour = COLOURS[place(&mut kinds, kind) % COLOURS.len()];
        let colour = colour.mix(0.5_f64.powi(place(&mut depths, depth) as i32));
        let points: Vec<_> = rows
            .iter()
            .filter(|row| (row.kind, row.depth) == (kind, depth))
            .map(|row| (row.size as f64, row.nanoseconds))
            .collect();
        let label = match depth {
            1 => kind.to_string(),
            _ => format!("{kind}, depth {depth}"),
        };
        let line = LineSeries::new(points, colour.stroke_width(2)).point_size(3);
        chart.draw_series(line)?;

        let y = 60 + 24 * number as i32;
        legend.draw(&PathElement::new([(0, y), (24, y)], colour.stroke_width(2)))?;
        legend.draw(&Text::new(label, (32, y - 6), ("sans-serif", 14)))?;
    }

    Ok(())
}

/// Returns the place of something in a list, to which it is added if it is new.
fn place<T: PartialEq>(list: &mut Vec<T>, one: T) -> usize {
    list.iter()
        .position(|other| *other == one)
        .unwrap_or_else(|| {
            list.push(one);
            list.len() - 1
        })
}

/// The lines of a chart, in the order of the rows.
fn series(rows: &[&Row]) -> Vec<(Kind, u32)> {
    let mut found = Vec::new();
    for row in rows {
        if !found.contains(&(row.kind, row.depth)) {
            found.push((row.kind, row.depth));
        }
    }
    found
}

/// Writes a time as people do.
fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        ..1e3 => format!("{nanoseconds:.0} ns"),
        ..1e6 => format!("{:.0} us", nanoseconds / 1e3),
        ..1e9 => format!("{:.0} ms", nanoseconds / 1e6),
        _ => format!("{:.0} s", nanoseconds / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_line() {
        let row = |what, kind, size: u64| Row {
            what,
            kind,
            size,
            depth: 1,
            threads: 1,
            nanoseconds: size as f64 / 10.0,
            bytes_per_second: 1e10,
            ratio: 1.0,
        };
        let rows = [
            row(What::Map, Kind::Mainline, 4096),
            row(What::Map, Kind::Mainline, 65536),
            row(What::Map, Kind::Mapped, 4096),
            row(What::Store, Kind::WriteCombining, 1 << 20),
        ];
        let text = svg(&rows).unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
        for word in [
            "map, touch",
            "store by",
            "write-combining",
            "the node, mapped",
            "64 KiB",
        ] {
            assert!(text.contains(word), "{word} is not in {text}");
        }
        assert!(!text.contains("depth"));
        assert!(svg(&[]).is_err());
    }

    #[test]
    fn times_have_units() {
        assert_eq!(time(10.0), "10 ns");
        assert_eq!(time(1000.0), "1 us");
        assert_eq!(time(2e7), "20 ms");
        assert_eq!(time(3e9), "3 s");
    }
}
