//! Names beyond the classic alphabet, for scrapers that don't know such: escaped in the way they ask for, as Prometheus does.

use std::borrow::Cow;

use axum::http::{HeaderMap, header};
use strandline_storage::model::{Labels, LabelsBuilder, METRIC_NAME};

/// What becomes of names that older scrapers can't read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escaping {
    /// They stay, in quotes.
    AllowUtf8,
    /// Each character that does not fit becomes `_`: what those get that ask for nothing.
    Underscores,
    /// Dots can be told from other characters.
    Dots,
    /// Nothing is lost: `U__` in front, and each such character as its code point.
    Values,
}

/// A content type that names the escaping.
macro_rules! named {
    ($escaping:expr, $form:literal) => {
        match $escaping {
            Escaping::AllowUtf8 => concat!($form, "; escaping=allow-utf-8"),
            Escaping::Underscores => concat!($form, "; escaping=underscores"),
            Escaping::Dots => concat!($form, "; escaping=dots"),
            Escaping::Values => concat!($form, "; escaping=values"),
        }
    };
}

impl Escaping {
    /// What `Accept` asks for, by the first offer that says so.
    pub fn of(headers: &HeaderMap) -> Self {
        let offers = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split([',', ';']));
        let asked = offers.filter_map(|p| p.trim().strip_prefix("escaping=")).find_map(|name| match name {
            "allow-utf-8" => Some(Escaping::AllowUtf8),
            "underscores" => Some(Escaping::Underscores),
            "dots" => Some(Escaping::Dots),
            "values" => Some(Escaping::Values),
            _ => None,
        });
        asked.unwrap_or(Escaping::Underscores)
    }

    /// The `Content-Type` of a page as text.
    pub fn text(self) -> &'static str {
        named!(self, "text/plain; version=0.0.4; charset=utf-8")
    }

    /// The `Content-Type` of a page as protobuf.
    pub fn protobuf(self) -> &'static str {
        named!(self, "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited")
    }

    fn leaves(self, name: &str) -> bool {
        self == Escaping::AllowUtf8 || is_plain(name, true)
    }

    fn name(self, name: &str) -> Cow<'_, str> {
        if self.leaves(name) {
            return Cow::Borrowed(name);
        }
        let mut out = String::from(if self == Escaping::Values { "U__" } else { "" });
        for (i, c) in name.chars().enumerate() {
            let fits = c.is_ascii_alphabetic() || c == '_' || c == ':' || i > 0 && c.is_ascii_digit();
            match (self, c) {
                (Escaping::Dots | Escaping::Values, '_') => out.push_str("__"),
                (Escaping::Dots, '.') => out.push_str("_dot_"),
                _ if fits => out.push(c),
                (Escaping::Values, c) => out.push_str(&format!("_{:x}_", c as u32)),
                (Escaping::Dots, _) => out.push_str("__"),
                _ => out.push('_'),
            }
        }
        Cow::Owned(out)
    }

    /// The labels with their names and the metric's escaped.
    pub fn labels(self, l: Labels) -> Labels {
        if l.iter().all(|(n, v)| if n == METRIC_NAME { self.leaves(v) } else { self.leaves(n) }) {
            return l;
        }
        let mut b = LabelsBuilder::default();
        for (n, v) in l.iter() {
            if n == METRIC_NAME {
                b.set(n, &self.name(v))
            } else {
                b.set(&self.name(n), v)
            };
        }
        b.build()
    }
}

/// Whether a name needs no quotes; `colon` for those of metrics.
pub fn is_plain(name: &str, colon: bool) -> bool {
    let mut b = name.bytes();
    b.next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_' || colon && c == b':')
        && b.all(|c| c.is_ascii_alphanumeric() || c == b'_' || colon && c == b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_asked() {
        for (escaping, name, want) in [
            (Escaping::Underscores, "http.größe", "http_gr__e"),
            (Escaping::Underscores, "1up:x_y", "_up:x_y"),
            (Escaping::Dots, "http.größe_x", "http_dot_gr____e__x"),
            (Escaping::Values, "http.größe", "U__http_2e_gr_f6__df_e"),
            (Escaping::Values, "a_b.c", "U__a__b_2e_c"),
            (Escaping::Values, "a_b", "a_b"),
            (Escaping::Dots, "a_b", "a_b"),
            (Escaping::AllowUtf8, "http.größe", "http.größe"),
        ] {
            assert_eq!(escaping.name(name), want, "{escaping:?}");
        }
        let l = Labels::from_pairs([("__name__", "a.b"), ("c.d", "e.f"), ("g", "h")]);
        assert_eq!(
            Escaping::Underscores.labels(l).to_string(),
            Labels::from_pairs([("__name__", "a_b"), ("c_d", "e.f"), ("g", "h")]).to_string()
        );
    }

    #[test]
    fn accept_names_the_escaping() {
        let of = |accept: &'static str| {
            let mut h = HeaderMap::new();
            h.insert(header::ACCEPT, header::HeaderValue::from_static(accept));
            Escaping::of(&h)
        };
        assert_eq!(of("text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"), Escaping::AllowUtf8);
        assert_eq!(of("application/openmetrics-text; version=1.0.0; escaping=values, */*"), Escaping::Values);
        assert_eq!(of("text/plain;version=0.0.4"), Escaping::Underscores);
        assert_eq!(Escaping::of(&HeaderMap::new()), Escaping::Underscores);
    }
}
