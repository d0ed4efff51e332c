//! A borrowing reader of protobuf fields: no message is built, nothing is copied.

/// Bytes that are not protobuf, with where and what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not decodable as protobuf: {what} at byte {at}")]
pub struct WireError {
    /// What was wrong.
    pub what: &'static str,
    /// Offset in the message that was read.
    pub at: usize,
}

/// The value of a field.
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
        let v = self.uint();
        (v >> 1) as i64 ^ -((v & 1) as i64)
    }
}

/// Iterates over the fields of a message.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// Over a message.
    pub fn new(data: &'a [u8]) -> Self {
        Fields { data, at: 0 }
    }
    fn fail<T>(&self, what: &'static str) -> Result<T, WireError> {
        Err(WireError { what, at: self.at })
    }
    #[inline]
    fn varint(&mut self) -> Result<u64, WireError> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let Some(b) = self.data.get(self.at) else { return self.fail("a varint is cut short") };
            self.at += 1;
            v |= ((b & 0x7f) as u64) << shift;
            if *b < 0x80 {
                return Ok(v);
            }
        }
        self.fail("a varint is too long")
    }
    fn take(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        match self.at.checked_add(n).and_then(|end| self.data.get(self.at..end)) {
            Some(b) => {
                self.at += n;
                Ok(b)
            }
            None => self.fail("a field reaches beyond its message"),
        }
    }
    /// The next field's number and value.
    #[inline]
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<(u32, Field<'a>)>, WireError> {
        if self.at == self.data.len() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = (tag >> 3) as u32;
        if number == 0 || tag >> 3 > 0x1fff_ffff {
            return self.fail("a field number is out of range");
        }
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => {
                let mut x = [0; 8];
                x.copy_from_slice(self.take(8)?);
                Field::Fixed64(u64::from_le_bytes(x))
            }
            2 => {
                let n = self.varint()? as usize;
                Field::Bytes(self.take(n)?)
            }
            5 => {
                let mut x = [0; 4];
                x.copy_from_slice(self.take(4)?);
                Field::Fixed32(u32::from_le_bytes(x))
            }
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

/// Appends fields to a message.
#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    fn varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.0.push((v as u8) | 0x80);
            v >>= 7;
        }
        self.0.push(v as u8);
    }
    /// Wire type 0.
    pub fn uint(&mut self, number: u32, v: u64) {
        self.varint((number as u64) << 3);
        self.varint(v);
    }
    /// Wire type 1.
    pub fn fixed64(&mut self, number: u32, v: u64) {
        self.varint((number as u64) << 3 | 1);
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    /// Wire type 5.
    pub fn fixed32(&mut self, number: u32, v: u32) {
        self.varint((number as u64) << 3 | 5);
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    /// Wire type 2.
    pub fn bytes(&mut self, number: u32, v: &[u8]) {
        self.varint((number as u64) << 3 | 2);
        self.varint(v.len() as u64);
        self.0.extend_from_slice(v);
    }
    /// A zigzag varint.
    pub fn sint(&mut self, number: u32, v: i64) {
        self.uint(number, (v << 1 ^ v >> 63) as u64);
    }
    /// Varints, packed.
    pub fn packed(&mut self, number: u32, all: &[u64]) {
        self.message(number, |w| all.iter().for_each(|v| w.varint(*v)));
    }
    /// A message within this one.
    pub fn message(&mut self, number: u32, write: impl FnOnce(&mut Self)) {
        self.varint((number as u64) << 3 | 2);
        let at = self.0.len();
        // One byte for the length is most often enough; where it is not, the content moves up.
        self.0.push(0);
        write(self);
        let n = self.0.len() - at - 1;
        if n < 0x80 {
            self.0[at] = n as u8;
            return;
        }
        let mut length = Writer::default();
        length.varint(n as u64);
        self.0.splice(at..=at, length.0);
    }
}
