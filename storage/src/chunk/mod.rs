//! Chunks: runs of samples of one series, in Prometheus' encodings.
//!
//! Source of the formats: tsdb/docs/format/chunks.md of Prometheus; `docs/format/chunks.md` here says what we write.

mod float_histogram;
mod hist_chunk;
mod hist_layout;
mod histogram;
mod xor;
mod xor2;
mod xor_value;

pub use float_histogram::{FloatHistogramAppender, decode_float_histogram};
pub use hist_chunk::{HistogramChunk, PackedHistogram};
pub use hist_layout::{Layout, Shape};
pub use histogram::{HistogramAppender, decode_histogram};
pub use xor::{XorAppender, decode_xor, last_of_xor};
pub use xor2::{Xor2Appender, decode_xor2};

use crate::error::{Error, Result};
use crate::model::TimeRange;
use crate::read::SampleBuf;

/// The byte that names a chunk's encoding on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// Gorilla XOR floats.
    Xor = 1,
    /// Integer native histograms.
    Histogram = 2,
    /// Float native histograms.
    FloatHistogram = 3,
    /// XOR with joint control bits and start timestamps.
    Xor2 = 4,
}

impl Encoding {
    /// From the byte on disk.
    pub fn from_byte(b: u8) -> Result<Self> {
        Ok(match b {
            1 => Encoding::Xor,
            2 => Encoding::Histogram,
            3 => Encoding::FloatHistogram,
            4 => Encoding::Xor2,
            5 | 6 => return Err(Error::invalid(format!("chunk encoding {b} (histograms with start timestamps) is not supported"))),
            0xff => return Err(Error::invalid("chunk encoding 255 (downsampled by Thanos) is not supported")),
            _ => return Err(Error::corrupt(format!("chunk encoding {b} is unknown"))),
        })
    }

    /// Whether samples are floats.
    pub fn is_float(self) -> bool {
        matches!(self, Encoding::Xor | Encoding::Xor2)
    }
}

/// Samples in a chunk of any encoding.
pub fn num_samples(data: &[u8]) -> usize {
    match data {
        [a, b, ..] => u16::from_be_bytes([*a, *b]) as usize,
        _ => 0,
    }
}

/// Appends to `out` the samples of a chunk that lie in `range`.
pub fn decode(encoding: Encoding, data: &[u8], range: TimeRange, out: &mut SampleBuf) -> Result<()> {
    match encoding {
        Encoding::Xor => decode_xor(data, range, out),
        Encoding::Xor2 => decode_xor2(data, range, out),
        Encoding::Histogram => decode_histogram(data, range, out),
        Encoding::FloatHistogram => decode_float_histogram(data, range, out),
    }
}

fn cut_short(what: &str) -> Error {
    Error::corrupt(format!("{what} chunk ends before its last sample"))
}

/// A chunk ends at the latest here.
pub const MAX_SAMPLES: u16 = 240;
/// Float chunks aim at so many samples.
pub const TARGET_SAMPLES: u16 = 120;
/// No float chunk grows beyond this.
pub const MAX_BYTES: usize = 2048;

/// Where a chunk that began at `start` and now holds a quarter of its samples at `now` should end, so that the
/// range up to `max` splits into equal parts.
pub fn predicted_end(start: i64, now: i64, max: i64) -> i64 {
    let n = (max - start) as f64 / (((now - start) + 1) as f64 * 4.0);
    let n = n.floor();
    if n <= 1.0 { max } else { (start as f64 + (max - start) as f64 / n).floor() as i64 }
}

#[cfg(test)]
mod tests;
