//! The Parquet Variant encoding: a dictionary of names (`metadata`) and a value that refers to it.
//!
//! Written by the public specification (VariantEncoding.md, version 1). Reading is checked: no panic, no recursion
//! beyond [`MAX_DEPTH`], nothing allocated by a length that was not backed by bytes.

use crate::model::AttributeValue;

/// Values nested deeper are damaged: the store refuses them on arrival.
pub const MAX_DEPTH: usize = 64;

/// What is wrong with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VariantError(pub &'static str);

impl std::fmt::Display for VariantError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "damaged variant: {}", self.0)
    }
}

impl std::error::Error for VariantError {}

type Result<T> = std::result::Result<T, VariantError>;

fn width(max: usize) -> usize {
    match max {
        0..=0xff => 1,
        0x100..=0xffff => 2,
        0x1_0000..=0xff_ffff => 3,
        _ => 4,
    }
}

fn put(out: &mut Vec<u8>, v: usize, width: usize) {
    out.extend_from_slice(&(v as u32).to_le_bytes()[..width]);
}

/// Writes the metadata of names that are sorted and distinct.
pub fn encode_metadata(names: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let total: usize = names.iter().map(|n| n.as_ref().len()).sum();
    let w = width(total.max(names.len()));
    let mut out = vec![1 | 1 << 4 | ((w - 1) as u8) << 6];
    put(&mut out, names.len(), w);
    let mut at = 0;
    put(&mut out, 0, w);
    for n in names {
        at += n.as_ref().len();
        put(&mut out, at, w);
    }
    for n in names {
        out.extend_from_slice(n.as_ref());
    }
    out
}

/// Appends a null.
pub fn put_null(out: &mut Vec<u8>) {
    out.push(0);
}

/// Appends a truth value.
pub fn put_bool(out: &mut Vec<u8>, v: bool) {
    out.push(if v { 1 << 2 } else { 2 << 2 });
}

/// Appends an integer in the fewest bytes.
pub fn put_int(out: &mut Vec<u8>, v: i64) {
    if let Ok(v) = i8::try_from(v) {
        out.extend_from_slice(&[3 << 2, v as u8]);
    } else if let Ok(v) = i16::try_from(v) {
        out.push(4 << 2);
        out.extend_from_slice(&v.to_le_bytes());
    } else if let Ok(v) = i32::try_from(v) {
        out.push(5 << 2);
        out.extend_from_slice(&v.to_le_bytes());
    } else {
        out.push(6 << 2);
        out.extend_from_slice(&v.to_le_bytes());
    }
}

/// Appends a double.
pub fn put_double(out: &mut Vec<u8>, v: f64) {
    out.push(7 << 2);
    out.extend_from_slice(&v.to_le_bytes());
}

/// Appends bytes.
pub fn put_bytes(out: &mut Vec<u8>, v: &[u8]) {
    out.push(15 << 2);
    put(out, v.len(), 4);
    out.extend_from_slice(v);
}

/// Appends text.
pub fn put_str(out: &mut Vec<u8>, v: impl AsRef<[u8]>) {
    let v = v.as_ref();
    if v.len() < 64 {
        out.push(1 | (v.len() as u8) << 2);
    } else {
        out.push(16 << 2);
        put(out, v.len(), 4);
    }
    out.extend_from_slice(v);
}

/// Appends an array of encoded values.
pub fn put_array(out: &mut Vec<u8>, values: &[Vec<u8>]) {
    let total: usize = values.iter().map(Vec::len).sum();
    let (w, large) = (width(total), values.len() > 0xff);
    out.push(3 | (((w - 1) as u8) | u8::from(large) << 2) << 2);
    put(out, values.len(), if large { 4 } else { 1 });
    put_contents(out, values.iter().map(Vec::as_slice), w);
}

/// Appends an object of encoded values; `fields` are (id in the metadata, value), in the order of their names.
pub fn put_object(out: &mut Vec<u8>, fields: &[(u32, Vec<u8>)]) {
    let total: usize = fields.iter().map(|f| f.1.len()).sum();
    let (w, large) = (width(total), fields.len() > 0xff);
    let ids = width(fields.iter().map(|f| f.0).max().unwrap_or(0) as usize);
    out.push(2 | (((w - 1) as u8) | ((ids - 1) as u8) << 2 | u8::from(large) << 4) << 2);
    put(out, fields.len(), if large { 4 } else { 1 });
    for (id, _) in fields {
        put(out, *id as usize, ids);
    }
    put_contents(out, fields.iter().map(|f| f.1.as_slice()), w);
}

fn put_contents<'a>(out: &mut Vec<u8>, values: impl Iterator<Item = &'a [u8]> + Clone, w: usize) {
    let mut at = 0;
    put(out, 0, w);
    for v in values.clone() {
        at += v.len();
        put(out, at, w);
    }
    values.for_each(|v| out.extend_from_slice(v));
}

fn get(buf: &[u8], at: usize, width: usize) -> Result<usize> {
    let b = at.checked_add(width).and_then(|end| buf.get(at..end)).ok_or(VariantError("truncated"))?;
    let mut v = [0; 4];
    v[..width].copy_from_slice(b);
    Ok(u32::from_le_bytes(v) as usize)
}

/// The dictionary of names.
#[derive(Clone, Copy, Debug)]
pub struct Metadata<'a> {
    buf: &'a [u8],
    width: usize,
    len: usize,
    sorted: bool,
}

impl<'a> Metadata<'a> {
    /// Opens encoded metadata.
    pub fn new(buf: &'a [u8]) -> Result<Self> {
        let header = *buf.first().ok_or(VariantError("empty metadata"))?;
        if header & 0xf != 1 {
            return Err(VariantError("unknown version"));
        }
        let width = (header >> 6) as usize + 1;
        let len = get(buf, 1, width)?;
        let offsets = len.checked_add(2).and_then(|n| n.checked_mul(width)).ok_or(VariantError("truncated"))?;
        if buf.len() < 1 + offsets {
            return Err(VariantError("truncated"));
        }
        Ok(Metadata { buf, width, len, sorted: header & 0x10 != 0 })
    }
    /// The name `id` stands for.
    pub fn name(&self, id: usize) -> Result<&'a str> {
        if id >= self.len {
            return Err(VariantError("no such name"));
        }
        let start = get(self.buf, 1 + (1 + id) * self.width, self.width)?;
        let end = get(self.buf, 1 + (2 + id) * self.width, self.width)?;
        let base = 1 + (2 + self.len) * self.width;
        let b = self.buf.get(base + start..base + end).ok_or(VariantError("truncated"))?;
        std::str::from_utf8(b).map_err(|_| VariantError("a name that is not UTF-8"))
    }
    /// The id of a name.
    pub fn id(&self, name: &str) -> Result<Option<usize>> {
        if !self.sorted {
            for i in 0..self.len {
                if self.name(i)? == name {
                    return Ok(Some(i));
                }
            }
            return Ok(None);
        }
        let (mut lo, mut hi) = (0, self.len);
        while lo < hi {
            let mid = (lo + hi) / 2;
            match self.name(mid)?.cmp(name) {
                std::cmp::Ordering::Equal => return Ok(Some(mid)),
                std::cmp::Ordering::Less => lo = mid + 1,
                std::cmp::Ordering::Greater => hi = mid,
            }
        }
        Ok(None)
    }
}

/// An object's or array's frame: where its ids, offsets and values lie.
struct Frame {
    len: usize,
    id_width: usize,
    ids: usize,
    offset_width: usize,
    offsets: usize,
    values: usize,
}

impl Frame {
    fn read(buf: &[u8]) -> Result<Frame> {
        let head = *buf.first().ok_or(VariantError("truncated"))?;
        let (basic, h) = (head & 3, head >> 2);
        let (offset_width, id_width, large) = if basic == 2 {
            ((h & 3) as usize + 1, (h >> 2 & 3) as usize + 1, h >> 4 & 1 == 1)
        } else {
            ((h & 3) as usize + 1, 0, h >> 2 & 1 == 1)
        };
        let count = if large { 4 } else { 1 };
        let len = get(buf, 1, count)?;
        let ids = 1 + count;
        let offsets = ids + len.checked_mul(id_width).ok_or(VariantError("truncated"))?;
        let values = offsets + (len + 1).checked_mul(offset_width).ok_or(VariantError("truncated"))?;
        if values > buf.len() {
            return Err(VariantError("truncated"));
        }
        Ok(Frame { len, id_width, ids, offset_width, offsets, values })
    }
    fn id(&self, buf: &[u8], i: usize) -> Result<usize> {
        get(buf, self.ids + i * self.id_width, self.id_width)
    }
    fn value<'a>(&self, buf: &'a [u8], i: usize) -> Result<&'a [u8]> {
        // The end of a value in an object is not the next offset: offsets may come in any order. Values are
        // self-delimiting, so the rest of the buffer does.
        let start = get(buf, self.offsets + i * self.offset_width, self.offset_width)?;
        buf.get(self.values + start..).ok_or(VariantError("truncated"))
    }
}

/// The encoded value of a field of an object; none if the value is no object or has no such field.
pub fn field<'a>(metadata: &Metadata<'_>, value: &'a [u8], name: &str) -> Result<Option<&'a [u8]>> {
    if value.first().is_none_or(|h| h & 3 != 2) {
        return Ok(None);
    }
    let Some(id) = metadata.id(name)? else { return Ok(None) };
    let f = Frame::read(value)?;
    for i in 0..f.len {
        if f.id(value, i)? == id {
            return f.value(value, i).map(Some);
        }
    }
    Ok(None)
}

/// Calls `f` with each field of an object.
pub fn fields<'a>(metadata: &Metadata<'a>, value: &'a [u8], mut f: impl FnMut(&'a str, &'a [u8]) -> Result<()>) -> Result<()> {
    if value.first().is_none_or(|h| h & 3 != 2) {
        return Ok(());
    }
    let frame = Frame::read(value)?;
    for i in 0..frame.len {
        f(metadata.name(frame.id(value, i)?)?, frame.value(value, i)?)?;
    }
    Ok(())
}

fn fixed<const N: usize>(buf: &[u8]) -> Result<[u8; N]> {
    buf.get(1..1 + N).and_then(|b| b.try_into().ok()).ok_or(VariantError("truncated"))
}

/// Decodes a value. Types that OpenTelemetry has no match for (dates, decimals) are damaged: this store writes none.
pub fn decode(metadata: &Metadata<'_>, value: &[u8], depth: usize) -> Result<AttributeValue> {
    if depth > MAX_DEPTH {
        return Err(VariantError("nested too deep"));
    }
    let head = *value.first().ok_or(VariantError("truncated"))?;
    let text =
        |b: &[u8]| std::str::from_utf8(b).map(|s| AttributeValue::String(s.to_owned())).map_err(|_| VariantError("text that is not UTF-8"));
    let long = || {
        let n = get(value, 1, 4)?;
        value.get(5..).and_then(|b| b.get(..n)).ok_or(VariantError("truncated"))
    };
    Ok(match (head & 3, head >> 2) {
        (0, 0) => AttributeValue::Empty,
        (0, 1) => AttributeValue::Bool(true),
        (0, 2) => AttributeValue::Bool(false),
        (0, 3) => AttributeValue::Int(i8::from_le_bytes(fixed(value)?).into()),
        (0, 4) => AttributeValue::Int(i16::from_le_bytes(fixed(value)?).into()),
        (0, 5) => AttributeValue::Int(i32::from_le_bytes(fixed(value)?).into()),
        (0, 6) => AttributeValue::Int(i64::from_le_bytes(fixed(value)?)),
        (0, 7) => AttributeValue::Double(f64::from_le_bytes(fixed(value)?)),
        (0, 14) => AttributeValue::Double(f32::from_le_bytes(fixed(value)?).into()),
        (0, 15) => AttributeValue::Bytes(long()?.to_vec()),
        (0, 16) => text(long()?)?,
        (1, n) => text(value.get(1..1 + n as usize).ok_or(VariantError("truncated"))?)?,
        (2, _) => {
            let mut out = Vec::new();
            let frame = Frame::read(value)?;
            for i in 0..frame.len {
                out.push((metadata.name(frame.id(value, i)?)?.to_owned(), decode(metadata, frame.value(value, i)?, depth + 1)?));
            }
            AttributeValue::Map(out)
        }
        (3, _) => {
            let frame = Frame::read(value)?;
            let mut out = Vec::new();
            for i in 0..frame.len {
                out.push(decode(metadata, frame.value(value, i)?, depth + 1)?);
            }
            AttributeValue::Array(out)
        }
        _ => return Err(VariantError("a type this store does not write")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(v: &AttributeValue, out: &mut std::collections::BTreeSet<String>) {
        match v {
            AttributeValue::Map(m) => m.iter().for_each(|(k, v)| {
                out.insert(k.clone());
                names(v, out);
            }),
            AttributeValue::Array(a) => a.iter().for_each(|v| names(v, out)),
            _ => {}
        }
    }

    fn encode(v: &AttributeValue, dict: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        match v {
            AttributeValue::Empty => put_null(&mut out),
            AttributeValue::String(s) => put_str(&mut out, s),
            AttributeValue::Bool(b) => put_bool(&mut out, *b),
            AttributeValue::Int(i) => put_int(&mut out, *i),
            AttributeValue::Double(d) => put_double(&mut out, *d),
            AttributeValue::Bytes(b) => put_bytes(&mut out, b),
            AttributeValue::Array(a) => put_array(&mut out, &a.iter().map(|v| encode(v, dict)).collect::<Vec<_>>()),
            AttributeValue::Map(m) => {
                let f: Vec<_> = m.iter().map(|(k, v)| (dict.binary_search(&k.as_str()).unwrap() as u32, encode(v, dict))).collect();
                put_object(&mut out, &f);
            }
        }
        out
    }

    fn value() -> impl Strategy<Value = AttributeValue> {
        let leaf = prop_oneof![
            Just(AttributeValue::Empty),
            any::<bool>().prop_map(AttributeValue::Bool),
            any::<i64>().prop_map(AttributeValue::Int),
            (-200i64..70_000).prop_map(AttributeValue::Int),
            any::<f64>().prop_map(AttributeValue::Double),
            "[a-zé]{0,80}".prop_map(AttributeValue::String),
            proptest::collection::vec(any::<u8>(), 0..9).prop_map(AttributeValue::Bytes),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(AttributeValue::Array),
                proptest::collection::btree_map("[a-d]{0,3}", inner, 0..6).prop_map(|m| AttributeValue::Map(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_by_us_and_by_the_reference(v in value()) {
            let mut set = Default::default();
            names(&v, &mut set);
            let dict: Vec<&str> = set.iter().map(String::as_str).collect();
            let metadata = encode_metadata(&dict);
            let bytes = encode(&v, &dict);
            prop_assert_eq!(&decode(&Metadata::new(&metadata).unwrap(), &bytes, 0).unwrap(), &v);
            // The reference implementation validates offsets, order of names and UTF-8.
            let other = parquet_variant::Variant::try_new(&metadata, &bytes).unwrap();
            if let AttributeValue::Map(m) = &v {
                prop_assert_eq!(other.as_object().unwrap().len(), m.len());
                for (k, _) in m {
                    prop_assert!(field(&Metadata::new(&metadata).unwrap(), &bytes, k).unwrap().is_some());
                }
            }
        }

        #[test]
        fn noise_never_panics(metadata in proptest::collection::vec(any::<u8>(), 0..40), bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(m) = Metadata::new(&metadata) {
                let _ = decode(&m, &bytes, 0);
                let _ = field(&m, &bytes, "a");
            }
        }
    }

    #[test]
    fn large_objects_and_arrays() {
        let keys: Vec<String> = (0..700).map(|i| format!("k{i:04}")).collect();
        let dict: Vec<&str> = keys.iter().map(String::as_str).collect();
        let v = AttributeValue::Map(keys.iter().map(|k| (k.clone(), AttributeValue::String("x".repeat(300)))).collect());
        let metadata = encode_metadata(&dict);
        let bytes = encode(&v, &dict);
        assert_eq!(decode(&Metadata::new(&metadata).unwrap(), &bytes, 0).unwrap(), v);
        assert!(parquet_variant::Variant::try_new(&metadata, &bytes).is_ok());
    }
}
