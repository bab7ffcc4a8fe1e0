//! The shares as a drawing: a bar each, and a line where the weight would have it end.

use std::fmt::Write as _;

use crate::{conformance::Simulated, text};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 190.0;
const BAR: f64 = 430.0;
const ROW: f64 = 22.0;
const TOP: f64 = 64.0;

/// An SVG of its own, readable on light and dark.
pub(super) fn draw(found: &Simulated) -> String {
    let height = TOP + ROW * found.endpoints.len() as f64 + 20.0;
    let largest = super::largest(&found.endpoints);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <style>.got{{fill:#4a7fb5}}.due{{stroke:#d9822b;stroke-width:2}}text{{fill:#333}}\
         @media(prefers-color-scheme:dark){{text{{fill:#ddd}}}}</style>\n\
         <text x=\"12\" y=\"22\" font-size=\"15\">{} {}: {} picks, seed {}</text>\n\
         <rect class=\"got\" x=\"12\" y=\"34\" width=\"14\" height=\"10\"/><text x=\"32\" y=\"43\">got</text>\n\
         <line class=\"due\" x1=\"72\" y1=\"33\" x2=\"72\" y2=\"46\"/><text x=\"80\" y=\"43\">by weight</text>\n",
        escaped(&found.plugin),
        escaped(&found.version),
        found.picks,
        found.seed
    );
    for (row, endpoint) in found.endpoints.iter().enumerate() {
        let y = TOP + ROW * row as f64;
        let label: String = endpoint.id.chars().take(26).collect();
        let end = LEFT + BAR * endpoint.by_weight / largest;
        // Writing into a String does not fail.
        let _ = writeln!(
            svg,
            "<text x=\"12\" y=\"{:.1}\">{}</text><rect class=\"got\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"14\"/>\
             <line class=\"due\" x1=\"{end:.1}\" y1=\"{:.1}\" x2=\"{end:.1}\" y2=\"{:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{:.1} % ({})</text>",
            y + 13.0,
            escaped(&label),
            y + 2.0,
            BAR * endpoint.got / largest,
            y,
            y + 18.0,
            LEFT + BAR + 12.0,
            y + 13.0,
            endpoint.got * 100.0,
            escaped(super::zone(&endpoint.zone)),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text::printable(text, text::NAME).chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}
