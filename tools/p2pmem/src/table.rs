// SPDX-License-Identifier: GPL-2.0

//! Tables of text.

use comfy_table::{presets, ContentArrangement, Table};

/// Writes rows below a header, in lines of at most `width` characters where words allow it.
pub fn render(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>, width: u16) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width)
        .add_rows(rows);
    if !header.is_empty() {
        table.set_header(header);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    format!("{}\n", table.trim_fmt())
}
