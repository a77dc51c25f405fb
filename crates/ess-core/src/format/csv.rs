//! CSV as RFC 4180 has it: comma, quotes where needed, CRLF after every record.
//!
//! A list of flat maps has a header record with every field's name in the order of first sight; a map that lacks one gets an
//! empty cell. A list of lists is written as it is, without a header.

use std::collections::HashMap;

use super::FormatError;
use super::tree::{Place, check_size, scalar, text};
use crate::json::Node;

const FLAT: &str = "a cell is one text or number: let an adapter flatten it, such as by $string()";
const ROWS: &str = "must be a list of maps, a list of lists, or one map: let an adapter make one";
/// Columns of a table: a header of its own in each row would otherwise make a large body of a small value.
const COLUMNS_MAX: usize = 4_096;

/// The records, and whether the first one is a header.
pub(super) fn write(value: &Node<'_>) -> Result<(String, bool), FormatError> {
    let root = Place::Root;
    match value {
        Node::Map(_) => write_maps(std::slice::from_ref(value), &root).map(|body| (body, true)),
        Node::List(rows) if rows.iter().all(|row| matches!(row, Node::List(_))) => {
            write_lists(rows, &root).map(|body| (body, false))
        }
        Node::List(rows) => write_maps(rows, &root).map(|body| (body, true)),
        Node::Word(_) | Node::Text(_) => Err(root.error(ROWS)),
    }
}

fn write_lists(rows: &[Node<'_>], root: &Place<'_>) -> Result<String, FormatError> {
    let mut out = String::new();
    for (index, row) in rows.iter().enumerate() {
        let place = Place::Item(root, index);
        let Node::List(cells) = row else { return Err(place.error(ROWS)) };
        let mut record = Record::begin(&mut out);
        for (column, cell) in cells.iter().enumerate() {
            record.push(&scalar(cell, &Place::Item(&place, column), FLAT)?);
        }
        record.end();
        check_size(&out)?;
    }
    Ok(out)
}

fn write_maps(rows: &[Node<'_>], root: &Place<'_>) -> Result<String, FormatError> {
    let mut columns: Vec<&str> = Vec::new();
    let mut index_of: HashMap<&str, usize> = HashMap::new();
    for (index, row) in rows.iter().enumerate() {
        let place = Place::Item(root, index);
        let Node::Map(fields) = row else { return Err(place.error(ROWS)) };
        for (name, _) in fields {
            let name = text(name, &place)?;
            if !index_of.contains_key(name) {
                index_of.insert(name, columns.len());
                columns.push(name);
            }
        }
        if columns.len() > COLUMNS_MAX {
            return Err(root.error(format_args!("has more than {COLUMNS_MAX} columns")));
        }
    }
    let mut out = String::new();
    let mut header = Record::begin(&mut out);
    columns.iter().for_each(|name| header.push(name));
    header.end();
    for (index, row) in rows.iter().enumerate() {
        let place = Place::Item(root, index);
        let Node::Map(fields) = row else { continue };
        let mut cells = vec![std::borrow::Cow::Borrowed(""); columns.len()];
        for (name, cell) in fields {
            let name = text(name, &place)?;
            let Some(column) = index_of.get(name) else { continue };
            cells[*column] = scalar(cell, &Place::Field(&place, name), FLAT)?;
        }
        let mut record = Record::begin(&mut out);
        cells.iter().for_each(|cell| record.push(cell));
        record.end();
        check_size(&out)?;
    }
    Ok(out)
}

/// One record, being written.
struct Record<'a> {
    out: &'a mut String,
    cells: usize,
    begun_at: usize,
}

impl<'a> Record<'a> {
    fn begin(out: &'a mut String) -> Self {
        let begun_at = out.len();
        Self { out, cells: 0, begun_at }
    }

    fn push(&mut self, cell: &str) {
        if self.cells > 0 {
            self.out.push(',');
        }
        self.cells += 1;
        if cell.contains([',', '"', '\r', '\n']) {
            self.out.push('"');
            self.out.push_str(&cell.replace('"', "\"\""));
            self.out.push('"');
        } else {
            self.out.push_str(cell);
        }
    }

    fn end(self) {
        if self.cells == 1 && self.out.len() == self.begun_at {
            // One empty cell would read as an empty line.
            self.out.push_str("\"\"");
        }
        self.out.push_str("\r\n");
    }
}
