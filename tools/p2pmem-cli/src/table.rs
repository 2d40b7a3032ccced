// SPDX-License-Identifier: GPL-2.0

//! Text in columns and lines.

use comfy_table::{presets::NOTHING, CellAlignment, ContentArrangement, Table};
use textwrap::{Options, WordSeparator, WordSplitter, WrapAlgorithm};

/// Writes rows below a header. Columns of numbers, whose names end in `#`, are aligned to the
/// right. With a `width` lines have at most that many characters, where words allow it.
pub fn render(
    header: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
    width: Option<u16>,
) -> String {
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_header(header.iter().map(|name| name.trim_end_matches('#')))
        .add_rows(rows);
    if let Some(width) = width {
        table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width);
    }
    for (column, name) in table.column_iter_mut().zip(header) {
        column.set_padding((0, 2));
        if name.ends_with('#') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n", table.trim_fmt())
}

/// Breaks a text into lines of at most `width` characters, between words only, so that what is to
/// be copied stays whole. All lines but the first are indented.
pub fn wrap(text: &str, indent: usize, width: u16) -> String {
    let indent = " ".repeat(indent);
    let options = Options::new(width.into())
        .break_words(false)
        .subsequent_indent(&indent)
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation)
        .wrap_algorithm(WrapAlgorithm::FirstFit);
    textwrap::fill(text, options) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrap("a bc d", 2, 100), "a bc d\n");
        assert_eq!(wrap("aaa bbb ccc", 2, 7), "aaa bbb\n  ccc\n");
        assert_eq!(wrap("a bbbbbbbbbbbb c", 2, 5), "a\n  bbbbbbbbbbbb\n  c\n");
        assert_eq!(wrap("  a b", 2, 100), "  a b\n");
        assert_eq!(wrap("", 2, 5), "\n");
    }
}
