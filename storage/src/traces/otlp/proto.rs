//! Protobuf's wire format: a checked cursor and a writer.

use std::fmt;

/// What is wrong with the bytes, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireError {
    /// What was being read.
    pub what: &'static str,
    /// Bytes from the start of the message that holds it.
    pub offset: usize,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "undecodable protobuf: {} at byte {}", self.what, self.offset)
    }
}

impl std::error::Error for WireError {}

/// One field's value as it lies on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wire<'a> {
    /// Varint.
    Int(u64),
    /// Eight bytes.
    Fixed64(u64),
    /// Four bytes.
    Fixed32(u32),
    /// Length-delimited.
    Bytes(&'a [u8]),
}

/// Reads fields one by one.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    buf: &'a [u8],
    pos: usize,
}

impl<'a> Cursor<'a> {
    /// At the start of a message.
    pub fn new(buf: &'a [u8]) -> Self {
        Cursor { buf, pos: 0 }
    }

    fn fail<T>(&self, what: &'static str) -> Result<T, WireError> {
        Err(WireError { what, offset: self.pos })
    }

    #[inline(always)]
    fn varint(&mut self) -> Result<u64, WireError> {
        match self.buf.get(self.pos) {
            Some(b) if *b < 0x80 => {
                self.pos += 1;
                Ok(u64::from(*b))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, WireError> {
        let mut v = 0u64;
        for i in 0..10 {
            let Some(b) = self.buf.get(self.pos) else { return self.fail("a truncated varint") };
            self.pos += 1;
            v |= u64::from(b & 0x7f) << (7 * i);
            if *b < 0x80 {
                return Ok(v);
            }
        }
        self.fail("a varint of more than ten bytes")
    }

    #[inline]
    fn take(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        match self.pos.checked_add(n).and_then(|end| self.buf.get(self.pos..end)) {
            Some(b) => {
                self.pos += n;
                Ok(b)
            }
            None => self.fail("a length beyond the message's end"),
        }
    }

    /// The next field's number and value; none at the end. Groups (long gone from proto3) are refused.
    #[inline(always)]
    pub fn field(&mut self) -> Result<Option<(u32, Wire<'a>)>, WireError> {
        if self.pos >= self.buf.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = (key >> 3) as u32;
        if number == 0 || key >> 3 > 0x1fff_ffff {
            return self.fail("an invalid field number");
        }
        let wire = match key & 7 {
            0 => Wire::Int(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().unwrap_or_default())),
            2 => {
                let n = self.varint()?;
                let n = usize::try_from(n).or_else(|_| self.fail("a length beyond the message's end"))?;
                Wire::Bytes(self.take(n)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().unwrap_or_default())),
            _ => return self.fail("an unknown wire type"),
        };
        Ok(Some((number, wire)))
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
    pub fn varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.buf.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.buf.push(v as u8);
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
