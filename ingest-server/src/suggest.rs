//! Suggestions for misspelt names.

/// `; did you mean X?` for the most similar of `all`, or nothing if none is similar enough. A dotted key is compared by its last
/// part too. The work grows with the product of the lengths: callers bound them.
pub fn did_you_mean(name: &str, all: impl Iterator<Item = String>) -> String {
    let last = name.rsplit('.').next().unwrap_or(name);
    let score = |k: &String| distance(name, k).min(distance(last, k.rsplit('.').next().unwrap_or(k)) + 1);
    match all.map(|k| (score(&k), k)).min() {
        Some((d, k)) if d <= name.len().max(4) / 3 + 1 => format!("; did you mean {k}?"),
        _ => String::new(),
    }
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
