//! A label set in one allocation.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The label that holds a metric's name.
pub const METRIC_NAME: &str = "__name__";

/// An immutable label set, sorted by name, names unique, values not empty.
///
/// One shared allocation: pairs lie behind one another as
/// `uvarint(name length) name uvarint(value length) value`. Cloning costs a reference count.
/// The order is Prometheus' own: pair by pair, name first, a shorter set before its extension.
#[derive(Clone, PartialEq, Eq)]
pub struct Labels(Arc<[u8]>);

impl Labels {
    /// The empty label set.
    pub fn empty() -> Self {
        Labels(Arc::from(&[][..]))
    }

    /// Builds from pairs in any order. Empty values are left out; of a repeated name the last one counts.
    pub fn from_pairs<N: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut b = LabelsBuilder::default();
        for (n, v) in pairs {
            b.set(n.as_ref(), v.as_ref());
        }
        b.build()
    }

    /// Packs pairs that are already sorted by name, unique and without empty values.
    pub fn from_sorted<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut out = Vec::with_capacity(128);
        for (n, v) in pairs {
            put(&mut out, n);
            put(&mut out, v);
        }
        Labels(out.into())
    }

    /// Appends one pair as [`Labels::as_bytes`] packs it.
    pub(crate) fn pack_pair(name: &str, value: &str, out: &mut Vec<u8>) {
        put(out, name);
        put(out, value);
    }

    /// Whether there is no label at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of labels; walks the set.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Pairs in order of their names.
    pub fn iter(&self) -> LabelsIter<'_> {
        LabelsIter(&self.0)
    }

    /// The value of `name`, if the label is there.
    pub fn get(&self, name: &str) -> Option<&str> {
        for (n, v) in self.iter() {
            match n.cmp(name) {
                Ordering::Less => {}
                Ordering::Equal => return Some(v),
                Ordering::Greater => return None,
            }
        }
        None
    }

    /// The value of `name`, or "" where the label is absent, as matchers and PromQL see it.
    pub fn value(&self, name: &str) -> &str {
        self.get(name).unwrap_or("")
    }

    /// The metric's name, "" where there is none.
    pub fn metric_name(&self) -> &str {
        self.value(METRIC_NAME)
    }

    /// A copy to change.
    pub fn to_builder(&self) -> LabelsBuilder {
        LabelsBuilder { pairs: self.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect() }
    }

    /// The set without the labels for which `drop` holds.
    pub fn without(&self, mut drop: impl FnMut(&str) -> bool) -> Labels {
        Labels::from_sorted(self.iter().filter(|(n, _)| !drop(n)))
    }

    /// The packed form; equal sets have equal bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Heap bytes of the set.
    pub fn size_bytes(&self) -> usize {
        self.0.len() + 16
    }
}

/// Orders packed label sets as [`Labels`] are ordered.
fn compare_packed(a: &[u8], b: &[u8]) -> Ordering {
    // Strings are ordered as their bytes are, and names alternate with values on both sides.
    let (mut a, mut b) = (LabelsIter(a), LabelsIter(b));
    loop {
        match (a.take_bytes(), b.take_bytes()) {
            (Some(x), Some(y)) if x == y => {}
            (x, y) => return x.cmp(&y),
        }
    }
}

fn put(out: &mut Vec<u8>, s: &str) {
    let mut n = s.len();
    while n >= 0x80 {
        out.push((n as u8) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out.extend_from_slice(s.as_bytes());
}

/// Iterator over `(name, value)`.
#[derive(Clone)]
pub struct LabelsIter<'a>(&'a [u8]);

impl<'a> LabelsIter<'a> {
    #[inline]
    fn take(&mut self) -> Option<&'a str> {
        // The bytes come from `put`, which only takes whole strings.
        std::str::from_utf8(self.take_bytes()?).ok()
    }

    #[inline]
    fn take_bytes(&mut self) -> Option<&'a [u8]> {
        let (mut n, mut shift, mut i) = (0usize, 0u32, 0usize);
        loop {
            let b = *self.0.get(i)?;
            i += 1;
            n |= ((b & 0x7f) as usize) << shift;
            if b < 0x80 {
                break;
            }
            shift += 7;
        }
        let s = self.0.get(i..i + n)?;
        self.0 = &self.0[i + n..];
        Some(s)
    }
}

impl<'a> Iterator for LabelsIter<'a> {
    type Item = (&'a str, &'a str);
    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        Some((self.take()?, self.take()?))
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = (&'a str, &'a str);
    type IntoIter = LabelsIter<'a>;
    fn into_iter(self) -> LabelsIter<'a> {
        self.iter()
    }
}

impl Hash for Labels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl Ord for Labels {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_packed(&self.0, &other.0)
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Default for Labels {
    fn default() -> Self {
        Labels::empty()
    }
}

/// `{a="b", c="d"}` with the metric name as one label among the others.
impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, (n, v)) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{n}={v:?}")?;
        }
        f.write_str("}")
    }
}

/// A label set under construction.
#[derive(Clone, Debug, Default)]
pub struct LabelsBuilder {
    pairs: Vec<(String, String)>,
}

impl LabelsBuilder {
    /// Sets a label; an empty value removes it.
    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        match self.pairs.binary_search_by(|(n, _)| n.as_str().cmp(name)) {
            Ok(i) if value.is_empty() => {
                self.pairs.remove(i);
            }
            Ok(i) => value.clone_into(&mut self.pairs[i].1),
            Err(_) if value.is_empty() => {}
            Err(i) => self.pairs.insert(i, (name.to_owned(), value.to_owned())),
        }
        self
    }

    /// Removes a label.
    pub fn remove(&mut self, name: &str) -> &mut Self {
        self.set(name, "")
    }

    /// Keeps the labels for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) -> &mut Self {
        self.pairs.retain(|(n, _)| keep(n));
        self
    }

    /// The value set so far.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok().map(|i| self.pairs[i].1.as_str())
    }

    /// The finished set.
    pub fn build(&self) -> Labels {
        Labels::from_sorted(self.pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_unique_and_without_empty_values() {
        let l = Labels::from_pairs([("b", "2"), ("a", "1"), ("c", ""), ("b", "3")]);
        assert_eq!(l.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "3")]);
        assert_eq!(l.get("b"), Some("3"));
        assert_eq!(l.value("zz"), "");
        assert_eq!(l.to_string(), r#"{a="1", b="3"}"#);
    }

    #[test]
    fn order_is_pairwise() {
        let l = |p: &[(&str, &str)]| Labels::from_pairs(p.iter().copied());
        assert!(l(&[("a", "1")]) < l(&[("a", "1"), ("b", "1")]));
        assert!(l(&[("a", "2")]) > l(&[("a", "1"), ("b", "1")]));
        assert!(l(&[("ab", "1")]) > l(&[("a", "zzzzzzzzz")]));
    }

    #[test]
    fn long_values_survive() {
        let v = "x".repeat(70_000);
        let l = Labels::from_pairs([("a", v.as_str())]);
        assert_eq!(l.get("a"), Some(v.as_str()));
    }
}
