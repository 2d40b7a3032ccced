// SPDX-License-Identifier: GPL-2.0

//! Tables as all commands print them.

use comfy_table::{presets::NOTHING, CellAlignment, Table};

/// Begins a table without lines. Columns of numbers, whose names end in `#`, are aligned to the right.
pub fn new(names: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header(names.iter().map(|name| name.trim_end_matches('#')));
    for (column, name) in table.column_iter_mut().zip(names) {
        column.set_padding((0, 2));
        if name.ends_with('#') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }

    table
}

/// Prints a table.
pub fn print(table: &Table) {
    println!("{}", table.trim_fmt());
}
