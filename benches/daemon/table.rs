//! Tables on the terminal, as Markdown, so that they can stand in a README.

/// A figure with its bound, if it has one.
pub(crate) enum Cell {
    Text(String),
    Figure(f64, usize),
    /// The figure, its decimals, and the most that it may be.
    AtMost(f64, usize, f64),
    /// The figure, its decimals, and the least that it must be.
    AtLeast(f64, usize, f64),
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            // The median of nothing: not measured.
            Self::Figure(figure, _) if figure.is_nan() => f.write_str("–"),
            Self::Figure(figure, decimals) => write!(f, "{figure:.decimals$}"),
            Self::AtMost(figure, decimals, bound) => {
                let verdict = if figure <= bound { "✓" } else { "✗" };
                write!(f, "{figure:.decimals$} {verdict} (≤ {bound})")
            }
            Self::AtLeast(figure, decimals, bound) => {
                let verdict = if figure >= bound { "✓" } else { "✗" };
                write!(f, "{figure:.decimals$} {verdict} (≥ {bound})")
            }
        }
    }
}

/// Prints a title and the head of a table.
pub(crate) fn head(title: &str, columns: &[&str]) {
    println!("\n### {title}\n");
    println!("| {} |", columns.join(" | "));
    println!("|---{}|", "|--:".repeat(columns.len() - 1));
}

/// Prints a row of it.
pub(crate) fn row(cells: &[Cell]) {
    let cells: Vec<String> = cells.iter().map(ToString::to_string).collect();
    println!("| {} |", cells.join(" | "));
}
