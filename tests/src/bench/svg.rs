//! Graphs: grouped bars on a logarithmic scale, as SVG.
//!
//! Owns the drawing. Ratios are what matters, so equal lengths are equal factors. Colours are readable on light and dark.

use crate::bench::Measured;
use crate::bench::contender::Kind;
use crate::bench::forward::{SIZES, Steering};
use crate::bench::rounds::Series;
use std::fmt::Write;
use std::path::Path;
use std::{fs, io};

const COLOURS: [&str; 5] = ["#0b7285", "#868e96", "#e8590c", "#ae3ec9", "#2b8a3e"];
const WIDTH: f64 = 900.0;
const LEFT: f64 = 190.0;
const BAR: f64 = 16.0;
const GAP: f64 = 14.0;
const TOP: f64 = 64.0;

/// A graph.
struct Graph {
    title: String,
    unit: &'static str,
    series: Vec<String>,
    /// A label and a value for each series.
    groups: Vec<(String, Vec<Option<f64>>)>,
}

/// Writes all graphs into a folder.
pub(crate) fn write(measured: &Measured, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for (name, graph) in graphs(measured) {
        fs::write(folder.join(name).with_extension("svg"), draw(&graph))?;
    }
    Ok(())
}

/// A figure of a contender, with its name.
type Figure = (&'static str, fn(&Series) -> Option<f64>);

fn graphs(measured: &Measured) -> Vec<(&'static str, Graph)> {
    let mut graphs = Vec::new();
    if let Some(containers) = &measured.containers {
        let graph = |title: &str, unit, parallel, figures: &[Figure]| {
            let mut groups = Vec::new();
            let settings = containers.settings.iter().filter(|s| s.parallel == parallel);
            for setting in settings {
                let row = |(name, figure): &Figure| {
                    let values = setting.series.iter().map(figure).collect();
                    (format!("{name}, {} pods present", setting.present), values)
                };
                groups.extend(figures.iter().map(row));
            }
            let series = Kind::ALL.iter().map(|kind| kind.name().to_owned()).collect();
            Graph { title: title.to_owned(), unit, series, groups }
        };
        graphs.push((
            "wall",
            graph(
                "From exec to exit, p50, one at a time",
                "ms",
                1,
                &[("ADD", |s| s.add.wall.median()), ("DEL", |s| s.del.wall.median())],
            ),
        ));
        let cpu = graph("CPU of an ADD and its DEL, plugin and daemon", "ms", 1, &[("", Series::cpu)]);
        graphs.push(("cpu", cpu));
        let rate = graph("Pods added per second, 8 at a time", "ADD/s", 8, &[("", |s| s.add.rate.median())]);
        graphs.push(("rate", rate));
    }
    if !measured.forwarding.is_empty() {
        graphs.push(("forwarding", forwarding(measured)));
    }
    graphs
}

fn forwarding(measured: &Measured) -> Graph {
    const KINDS: [Steering; 4] = [Steering::Ours, Steering::Conntrack, Steering::Rules, Steering::PerPod];
    let mut groups = Vec::new();
    for (path, name) in ["pod to pod", "pod to ENI", "ENI to pod"].iter().enumerate() {
        for pods in SIZES {
            let value = |steering: &Steering| {
                let mut cases = measured.forwarding.iter();
                let case = cases
                    .find(|c| (c.steering, c.pods, c.services, c.again) == (*steering, pods, true, false));
                case.and_then(|case| case.p10(path))
            };
            groups.push((format!("{name}, {pods} pods"), KINDS.iter().map(value).collect()));
        }
    }
    let series = KINDS.iter().map(|steering| steering.name().to_owned()).collect();
    let title = "What a 64-byte packet costs through the node, with 1000 services, p10".to_owned();
    Graph { title, unit: "ns", series, groups }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn draw(graph: &Graph) -> String {
    let values = || graph.groups.iter().flat_map(|(_, values)| values.iter().flatten().copied());
    let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
    // A decade of room below the least, so that it has a length too.
    let floor = if least.is_finite() && least > 0.0 { (least / 2.0).log10() } else { 0.0 };
    let span = (most.max(1e-9).log10() - floor).max(0.1);
    let group = graph.series.len() as f64 * BAR + GAP;
    let height = TOP + graph.groups.len() as f64 * group + 10.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"#868e96\">\n<text x=\"10\" y=\"20\" font-size=\"15\">{} ({}, logarithmic)</text>\n",
        escape(&graph.title),
        graph.unit
    );
    for (number, name) in graph.series.iter().enumerate() {
        let (x, colour) = (10.0 + number as f64 * 210.0, COLOURS[number % COLOURS.len()]);
        let name = escape(name);
        writeln!(
            out,
            "<rect x=\"{x}\" y=\"34\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{}\" y=\"45\">{name}</text>",
            x + 18.0
        )
        .expect("a string");
    }
    for (row, (label, values)) in graph.groups.iter().enumerate() {
        let y = TOP + row as f64 * group;
        let label = escape(label.trim_start_matches(", "));
        writeln!(out, "<text x=\"10\" y=\"{}\">{label}</text>", y + group / 2.0).expect("a string");
        for (number, value) in
            values.iter().enumerate().filter_map(|(number, value)| Some((number, (*value)?)))
        {
            let (y, colour) = (y + number as f64 * BAR, COLOURS[number % COLOURS.len()]);
            let length = ((value.max(1e-9).log10() - floor) / span * (WIDTH - LEFT - 80.0)).max(1.0);
            let shown = if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") };
            writeln!(
                out,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{}\" fill=\"{colour}\"/><text x=\"{:.1}\" \
                 y=\"{}\">{shown}</text>",
                BAR - 3.0,
                LEFT + length + 6.0,
                y + BAR - 5.0
            )
            .expect("a string");
        }
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_grow_with_their_values() {
        let graph = Graph {
            title: "a < b".to_owned(),
            unit: "ms",
            series: vec!["one".to_owned(), "two".to_owned()],
            groups: vec![
                ("x".to_owned(), vec![Some(1.0), Some(100.0)]),
                ("y".to_owned(), vec![None, Some(10.0)]),
            ],
        };
        let text = draw(&graph);
        let bars = text.split("height=\"13\"").count() - 1;
        let widths: Vec<f64> = text
            .split(&format!("x=\"{LEFT}\""))
            .skip(1)
            .map(|rest| rest.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!((bars, widths.len()), (3, 3));
        assert!(widths[0] < widths[2] && widths[2] < widths[1], "{widths:?}");
        assert!(text.contains("a &lt; b") && text.ends_with("</svg>\n"));
    }
}
