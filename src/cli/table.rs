//! Tables for people: aligned columns, cut to the width of the terminal.

use super::output::{Paint, clean};

const GAP: usize = 2;
/// No column is cut to less.
const COLUMN_MIN: usize = 8;

/// A table that is being filled.
#[derive(Debug)]
pub(super) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// One cell.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    pub fn new(paint: Paint, text: impl Into<String>) -> Self {
        Self { text: clean(&text.into()).replace(['\n', '\t'], " "), paint }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(Paint::Plain, text)
    }
}

impl Table {
    /// Columns whose head starts with `>` are flush right.
    pub fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let mut row: Vec<Cell> = cells.into_iter().collect();
        row.resize(self.head.len(), Cell::default());
        self.rows.push(row);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// As text; as wide as it likes if no width is given.
    pub fn render(&self, width: Option<usize>, paint: impl Fn(Paint, &str) -> String) -> String {
        let widths = self.widths(width);
        let head: Vec<Cell> =
            self.head.iter().map(|h| Cell::new(Paint::Bold, h.trim_start_matches('>'))).collect();
        let mut out = String::new();
        for row in std::iter::once(&head).chain(&self.rows) {
            let mut pending = 0;
            for (index, cell) in row.iter().enumerate() {
                let text = cut(&cell.text, widths[index]);
                let room = widths[index] - text.chars().count();
                let right = self.head[index].starts_with('>');
                let (before, after) = if right { (room, 0) } else { (0, room) };
                // Spaces are written only when something follows them.
                if !text.is_empty() {
                    out.extend(std::iter::repeat_n(' ', pending + before));
                    out.push_str(&paint(cell.paint, &text));
                    pending = after + GAP;
                } else {
                    pending += room + GAP;
                }
            }
            out.push('\n');
        }
        out
    }

    fn widths(&self, limit: Option<usize>) -> Vec<usize> {
        let width_of = |index: usize| {
            let cells = self.rows.iter().map(|row| row[index].text.chars().count());
            cells.max().unwrap_or(0).max(self.head[index].trim_start_matches('>').len())
        };
        let mut widths: Vec<usize> = (0..self.head.len()).map(width_of).collect();
        let Some(limit) = limit else { return widths };
        // The widest column gives way, the last of equals first.
        loop {
            let total = widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
            let Some(excess) = total.checked_sub(limit).filter(|e| *e > 0) else { break };
            let widest = (0..widths.len()).max_by_key(|index| widths[*index]);
            let Some(widest) = widest.filter(|w| widths[*w] > COLUMN_MIN) else { break };
            let second = widths.iter().enumerate().filter(|(i, _)| *i != widest);
            let second = second.map(|(_, w)| *w).max().unwrap_or(0);
            let step = excess.min((widths[widest] - second).max(1));
            widths[widest] = (widths[widest] - step).max(COLUMN_MIN);
        }
        widths
    }
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", ">N", "TEXT"]);
        table.row(["a".into(), "1".into(), "a rather long text that goes on".into()]);
        table.row(["beta".into(), "22".into(), "x\ny".into()]);
        table
    }

    #[test]
    fn columns_are_aligned_without_spaces_at_the_end() {
        let text = table().render(None, |_, text| text.to_owned());
        let expected = "NAME   N  TEXT\na      1  a rather long text that goes on\nbeta  22  x y\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_widest_column_gives_way_to_the_terminal() {
        let text = table().render(Some(24), |_, text| text.to_owned());
        assert!(text.lines().all(|line| line.chars().count() <= 24), "{text}");
        assert!(text.contains("a rather long…"), "{text}");
        // Too narrow for anything: it still ends.
        let narrow = table().render(Some(1), |_, text| text.to_owned());
        assert_eq!(narrow.lines().count(), 3);
    }
}
