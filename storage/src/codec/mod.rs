//! Numbers and bits as Prometheus' formats write them. Readers are checked: no input makes them panic.

mod bits;
mod buf;
pub mod protobuf;

pub use bits::{BitReader, BitWriter, Words};
pub use buf::{Reader, put_be_u32, put_be_u64, put_uvarint, put_varint, uvarint_at};

/// A signed number as an unsigned one that is small where it is near 0.
#[inline]
pub fn zigzag(v: i64) -> u64 {
    ((v << 1) ^ (v >> 63)) as u64
}

/// What [`zigzag`] was given.
#[inline]
pub fn unzigzag(u: u64) -> i64 {
    (u >> 1) as i64 ^ -((u & 1) as i64)
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

/// CRC-32C (Castagnoli), as Prometheus' files use it.
pub fn crc32c(data: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, data) as u32
}

/// CRC-32C over two pieces.
pub fn crc32c_of(a: &[u8], b: &[u8]) -> u32 {
    let mut d = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    d.update(a);
    d.update(b);
    d.finalize() as u32
}

#[cfg(test)]
mod tests {
    #[test]
    fn castagnoli_check_value() {
        assert_eq!(super::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(super::crc32c_of(b"1234", b"56789"), 0xe306_9283);
    }

    #[test]
    fn zigzag_and_hex() {
        assert_eq!([0, -1, 1, i64::MAX, i64::MIN].map(super::zigzag), [0, 1, 2, u64::MAX - 1, u64::MAX]);
        [0, -1, 1, 77, i64::MAX, i64::MIN].iter().for_each(|v| assert_eq!(super::unzigzag(super::zigzag(*v)), *v));
        assert_eq!((super::hex(&[0, 0x0f, 0xa5, 0xff]), super::hex(&[])), ("000fa5ff".to_owned(), String::new()));
    }
}
