//! Protobuf's wire format: fields are borrowed, no message is built; every step is checked.

use super::{put_uvarint, unzigzag, zigzag};

/// Bytes that are not protobuf, with where and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not decodable as protobuf: {what} at byte {at}")]
pub struct WireError {
    /// What was wrong.
    pub what: &'static str,
    /// Bytes from the start of the message that holds it.
    pub at: usize,
}

/// The value of a field as it lies on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Field<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
    /// Wire type 5.
    Fixed32(u32),
}

impl<'a> Field<'a> {
    /// The bytes of a length-delimited field, empty for others.
    pub fn bytes(self) -> &'a [u8] {
        if let Field::Bytes(b) = self { b } else { &[] }
    }
    /// Text; `None` if it is not UTF-8.
    pub fn text(self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()).ok()
    }
    /// A varint (or fixed integer) as u64.
    pub fn uint(self) -> u64 {
        match self {
            Field::Varint(v) | Field::Fixed64(v) => v,
            Field::Fixed32(v) => v as u64,
            Field::Bytes(_) => 0,
        }
    }
    /// A double.
    pub fn double(self) -> f64 {
        f64::from_bits(self.uint())
    }
    /// A zigzag varint.
    pub fn sint(self) -> i64 {
        unzigzag(self.uint())
    }
}

/// Reads fields one by one.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// At the start of a message.
    pub fn new(data: &'a [u8]) -> Self {
        Fields { data, at: 0 }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    fn fail<T>(&self, what: &'static str) -> Result<T, WireError> {
        Err(WireError { what, at: self.at })
    }

    #[inline(always)]
    fn varint(&mut self) -> Result<u64, WireError> {
        match self.data.get(self.at) {
            Some(b) if *b < 0x80 => {
                self.at += 1;
                Ok(u64::from(*b))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, WireError> {
        let mut v = 0u64;
        for i in 0..10 {
            let Some(b) = self.data.get(self.at) else { return self.fail("a varint is cut short") };
            self.at += 1;
            v |= u64::from(b & 0x7f) << (7 * i);
            if *b < 0x80 {
                return Ok(v);
            }
        }
        self.fail("a varint is longer than ten bytes")
    }

    #[inline]
    fn take(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        match self.at.checked_add(n).and_then(|end| self.data.get(self.at..end)) {
            Some(b) => {
                self.at += n;
                Ok(b)
            }
            None => self.fail("a field reaches beyond its message"),
        }
    }

    /// The next field's number and value; none at the end. Groups (long gone from proto3) are refused.
    #[inline(always)]
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<(u32, Field<'a>)>, WireError> {
        if self.at >= self.data.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = (key >> 3) as u32;
        if number == 0 || key >> 3 > 0x1fff_ffff {
            return self.fail("a field number is out of range");
        }
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().unwrap_or_default())),
            2 => {
                let n = self.varint()?;
                let n = usize::try_from(n).or_else(|_| self.fail("a field reaches beyond its message"))?;
                Field::Bytes(self.take(n)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().unwrap_or_default())),
            _ => return self.fail("a wire type is unknown"),
        };
        Ok(Some((number, field)))
    }
}

/// Values of a repeated fixed 64-bit field, packed or one by one.
pub fn fixed64s(f: Field<'_>, out: &mut Vec<u64>) -> Result<(), WireError> {
    match f {
        Field::Bytes(b) if b.len().is_multiple_of(8) => {
            out.extend(b.chunks_exact(8).map(|c| u64::from_le_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]])));
            Ok(())
        }
        Field::Bytes(_) => Err(WireError { what: "a packed field has a broken length", at: 0 }),
        other => {
            out.push(other.uint());
            Ok(())
        }
    }
}

/// Values of a repeated varint field, packed or one by one.
pub fn varints(f: Field<'_>, out: &mut Vec<u64>) -> Result<(), WireError> {
    match f {
        Field::Bytes(b) => {
            // A byte each at least.
            out.reserve(b.len());
            let mut r = Fields::new(b);
            while r.at < b.len() {
                out.push(r.varint()?);
            }
            Ok(())
        }
        other => {
            out.push(other.uint());
            Ok(())
        }
    }
}

/// Writes fields; empty and zero ones are left out, as proto3 has it.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    /// What was written.
    pub buf: Vec<u8>,
}

impl Writer {
    /// Varint without a key.
    pub fn varint(&mut self, v: u64) {
        put_uvarint(&mut self.buf, v);
    }
    fn key(&mut self, number: u32, wire: u8) {
        self.varint(u64::from(number) << 3 | u64::from(wire));
    }
    /// A varint field.
    pub fn int(&mut self, number: u32, v: u64) {
        if v != 0 {
            self.int_always(number, v);
        }
    }
    /// A varint field, zero too.
    pub fn int_always(&mut self, number: u32, v: u64) {
        self.key(number, 0);
        self.varint(v);
    }
    /// A zigzag varint field.
    pub fn sint(&mut self, number: u32, v: i64) {
        self.int(number, zigzag(v));
    }
    /// Varints, packed.
    pub fn packed(&mut self, number: u32, all: &[u64]) {
        self.message(number, |w| all.iter().for_each(|v| w.varint(*v)));
    }
    /// A 64-bit field.
    pub fn fixed64(&mut self, number: u32, v: u64) {
        if v != 0 {
            self.fixed64_always(number, v);
        }
    }
    /// A 64-bit field, zero too.
    pub fn fixed64_always(&mut self, number: u32, v: u64) {
        self.key(number, 1);
        self.buf.extend_from_slice(&v.to_le_bytes());
    }
    /// A 32-bit field.
    pub fn fixed32(&mut self, number: u32, v: u32) {
        if v != 0 {
            self.key(number, 5);
            self.buf.extend_from_slice(&v.to_le_bytes());
        }
    }
    /// Bytes or text.
    pub fn bytes(&mut self, number: u32, v: &[u8]) {
        if !v.is_empty() {
            self.bytes_always(number, v);
        }
    }
    /// Bytes or text, empty too.
    pub fn bytes_always(&mut self, number: u32, v: &[u8]) {
        self.key(number, 2);
        self.varint(v.len() as u64);
        self.buf.extend_from_slice(v);
    }
    /// A message, written by `f`; its length is put before it.
    pub fn message(&mut self, number: u32, f: impl FnOnce(&mut Writer)) {
        self.key(number, 2);
        let at = self.buf.len();
        // One byte of length fits most messages; longer ones are moved.
        self.buf.push(0);
        f(self);
        let len = self.buf.len() - at - 1;
        if len < 0x80 {
            self.buf[at] = len as u8;
            return;
        }
        let mut prefix = Writer::default();
        prefix.varint(len as u64);
        self.buf.splice(at..=at, prefix.buf);
    }
}
