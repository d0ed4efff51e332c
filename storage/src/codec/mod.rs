//! Numbers and bits as Prometheus' formats write them. Readers are checked: no input makes them panic.

mod bits;
mod buf;
pub mod protobuf;

pub use bits::{BitReader, BitWriter, Words};
pub use buf::{Reader, put_be_u32, put_be_u64, put_uvarint, put_varint, uvarint_at};

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
}
