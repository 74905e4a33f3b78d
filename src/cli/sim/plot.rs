//! What came of the runs, as an SVG: who knew of each failure when, and where
//! there are several sizes, time and traffic against the size.

use plotters::prelude::*;

use crate::sim::{Measured, Spread};

const WIDTH: u32 = 960;
const HEIGHT: u32 = 460;
const FONT: &str = "sans-serif";
/// Told apart on white, and by those who see colours otherwise (after Okabe and Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(90, 90, 90),
    RGBColor(130, 60, 20),
];
/// Curves that one picture bears.
const CURVES_MAX: usize = COLOURS.len();

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// The picture as text.
pub(super) fn draw(runs: &[&Measured]) -> String {
    let mut svg = String::new();
    {
        let several = runs.len() > 1;
        let height = if several { HEIGHT * 2 } else { HEIGHT };
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        // Only a device that fails ends with an error, and a string is none.
        let _drawn = compose(&root, runs, several);
    }
    svg
}

fn compose(root: &Area<'_>, runs: &[&Measured], several: bool) -> Drawn {
    root.fill(&WHITE)?;
    if several {
        let parts = root.split_evenly((2, 1));
        knowledge(&parts[0], runs)?;
        let parts = parts[1].split_evenly((1, 2));
        by_size(&parts[0], runs, "Until a failure is known", "seconds", &TIMES)?;
        by_size(&parts[1], runs, "Sent by a member", "bytes in a second", &BYTES)?;
    } else {
        knowledge(root, runs)?;
    }
    root.present()?;
    Ok(())
}

/// One curve: what is said of it, and its failure.
fn curves<'a>(runs: &[&'a Measured]) -> Vec<(String, &'a Spread)> {
    let named = |run: &'a Measured| {
        let several = runs.len() > 1;
        // Of several sizes one each, or the picture is full.
        let most = if several { 1 } else { CURVES_MAX };
        run.failures.iter().filter(|spread| spread.knew > 0).take(most).map(move |spread| {
            let text = if several {
                format!("{} members, {} {}", run.members, spread.member, spread.what)
            } else {
                format!("{} {}, {:.0} s", spread.member, spread.what, spread.at_ms / 1e3)
            };
            (text, spread)
        })
    };
    runs.iter().flat_map(|run| named(run)).take(CURVES_MAX).collect()
}

fn knowledge(area: &Area<'_>, runs: &[&Measured]) -> Drawn {
    let curves = curves(runs);
    let longest = curves.iter().filter_map(|(_, s)| s.curve.last()).map(|(ms, _)| *ms / 1e3);
    let end = longest.fold(1.0_f64, f64::max) * 1.08;
    let mut chart = ChartBuilder::on(area)
        .caption("Share of members that know of each failure", (FONT, 18))
        .margin(14)
        .x_label_area_size(38)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..end, 0.0..1.04)?;
    chart
        .configure_mesh()
        .x_desc("seconds since it happened")
        .y_label_formatter(&|share| format!("{:.0} %", share * 100.0))
        .y_labels(6)
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .axis_desc_style((FONT, 13))
        .label_style((FONT, 12))
        .draw()?;
    for (index, (text, spread)) in curves.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let audience = spread.audience.max(1) as f64;
        let mut points = vec![(0.0, 0.0)];
        for &(ms, knew) in &spread.curve {
            // A step: nobody knows a little.
            let before = points.last().map_or(0.0, |(_, share)| *share);
            points.push((ms / 1e3, before));
            points.push((ms / 1e3, knew as f64 / audience));
        }
        let last = points.last().map_or(0.0, |(_, share)| *share);
        points.push((end, last));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(text.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    if !curves.is_empty() {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(200, 200, 200))
            .label_font((FONT, 12))
            .draw()?;
    }
    Ok(())
}

type Figure = (&'static str, fn(&Measured) -> Option<f64>);

const TIMES: [Figure; 4] = [
    ("to the first", |run| mean(run, |s| s.first_ms)),
    ("to half", |run| mean(run, |s| s.half_ms)),
    ("to all", |run| mean(run, |s| s.all_ms)),
    ("to all, at worst", |run| run.slowest().map(|ms| ms / 1e3)),
];
const BYTES: [Figure; 3] = [
    ("idle", |run| run.idle.map(|idle| idle.bytes_mean)),
    ("over all", |run| Some(run.traffic.bytes_mean)),
    ("over all, the busiest", |run| Some(run.traffic.bytes_max)),
];

fn mean(run: &Measured, of: fn(&Spread) -> Option<f64>) -> Option<f64> {
    run.mean(of).map(|ms| ms / 1e3)
}

fn by_size(
    area: &Area<'_>,
    runs: &[&Measured],
    title: &str,
    unit: &str,
    figures: &[Figure],
) -> Drawn {
    let sizes = || runs.iter().map(|run| run.members as f64);
    let (least, most) = (sizes().fold(f64::MAX, f64::min), sizes().fold(2.0, f64::max));
    let highest = figures
        .iter()
        .flat_map(|(_, figure)| runs.iter().filter_map(|run| figure(run)))
        .fold(1.0_f64, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 18))
        .margin(14)
        .x_label_area_size(38)
        .y_label_area_size(60)
        .build_cartesian_2d((least * 0.8..most * 1.25).log_scale(), 0.0..highest * 1.3)?;
    chart
        .configure_mesh()
        .x_desc("members")
        .y_desc(unit)
        .x_labels(5)
        .x_label_formatter(&|size| format!("{size:.0}"))
        .y_label_formatter(&|y| if highest > 20.0 { format!("{y:.0}") } else { format!("{y:.1}") })
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .axis_desc_style((FONT, 13))
        .label_style((FONT, 12))
        .draw()?;
    for (index, (name, figure)) in figures.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let points: Vec<(f64, f64)> =
            runs.iter().filter_map(|run| Some((run.members as f64, figure(run)?))).collect();
        chart
            .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(200, 200, 200))
        .label_font((FONT, 12))
        .draw()?;
    Ok(())
}
