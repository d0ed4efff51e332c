//! As much of protobuf as requests need.

/// A message under construction.
#[derive(Default)]
pub struct Message(pub Vec<u8>);

impl Message {
    fn varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.0.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.0.push(v as u8);
    }
    /// A varint field.
    pub fn int(&mut self, number: u32, v: u64) {
        self.varint(u64::from(number) << 3);
        self.varint(v);
    }
    /// Eight bytes.
    pub fn fixed64(&mut self, number: u32, v: u64) {
        self.varint(u64::from(number) << 3 | 1);
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    /// Bytes with their length.
    pub fn bytes(&mut self, number: u32, v: &[u8]) {
        self.varint(u64::from(number) << 3 | 2);
        self.varint(v.len() as u64);
        self.0.extend_from_slice(v);
    }
    /// A message within.
    pub fn message(&mut self, number: u32, fill: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        fill(&mut inner);
        self.bytes(number, &inner.0);
    }
}
