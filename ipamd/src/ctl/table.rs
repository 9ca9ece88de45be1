//! Text in columns.
//!
//! Owns the alignment. Knows nothing of what is shown.

/// A table with a head; `empty` is said when it has no rows.
pub(super) fn table(head: &[&str], rows: Vec<Vec<String>>, empty: &str) -> String {
    if rows.is_empty() {
        return format!("{empty}\n");
    }
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = line(head.iter().map(|h| (*h).to_owned()), &widths);
    for row in rows {
        text.push_str(&line(row.into_iter(), &widths));
    }
    text
}

/// Keys and values, aligned; a key that repeats is written once.
pub(super) fn key_values(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let (mut text, mut last) = (String::new(), "");
    for (key, value) in rows {
        let shown = if *key == last { "" } else { key };
        text.push_str(format!("{shown:width$}  {value}").trim_end());
        text.push('\n');
        last = key;
    }
    text
}

fn line(cells: impl Iterator<Item = String>, widths: &[usize]) -> String {
    let padded: Vec<String> = cells.zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
    padded.join("  ").trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_an_empty_table_says_so() {
        let rows = vec![vec!["a".into(), "1".into()], vec!["bbb".into(), String::new()]];
        assert_eq!(table(&["X", "Y"], rows, "none"), "X    Y\na    1\nbbb\n");
        assert_eq!(table(&["X"], Vec::new(), "none"), "none\n");
        assert_eq!(key_values(&[("k", "1".into()), ("k", "2".into())]), "k  1\n   2\n");
    }
}
