//! Histograms as text, as `count_values` makes label values of them.

use std::fmt::Write;

use strandline_storage::model::FloatHistogram;

use super::super::gofmt::general;
use super::{Bucket, negative, positive, zero_bucket};

/// `{count:4, sum:5, (0.5,1]:1, (1,2]:3}`.
pub(crate) fn to_text(h: &FloatHistogram) -> String {
    let mut s = format!("{{count:{}, sum:{}", general(h.count), general(h.sum));
    let mut put = |b: &Bucket| {
        if b.count != 0.0 {
            let (open, close) = (if b.lower_inclusive { '[' } else { '(' }, if b.upper_inclusive { ']' } else { ')' });
            let _ = write!(s, ", {open}{},{}{close}:{}", general(b.lower), general(b.upper), general(b.count));
        }
    };
    negative(h).iter().rev().for_each(&mut put);
    put(&zero_bucket(h));
    positive(h).iter().for_each(&mut put);
    s.push('}');
    s
}
