//! The columns of one VARIANT group while a row group is gathered.

use foldhash::HashMap;

use super::layout::{ShredKey, ShredType};
use crate::columnar::dict::Texts;
use crate::columnar::variant;
use crate::columnar::write::Values;
use crate::traces::otlp::{RawValue, WireError, array_values, attributes};

type Result<T> = std::result::Result<T, WireError>;

/// Names that VARIANT values of a file refer to.
pub struct Names {
    /// Sorted.
    pub names: Vec<String>,
    index: HashMap<Box<[u8]>, u32>,
    metadata: Vec<u8>,
}

impl Names {
    /// Of sorted names.
    pub fn new(names: Vec<String>) -> Self {
        let metadata = variant::encode_metadata(&names);
        let index = names.iter().enumerate().map(|(i, n)| (n.as_bytes().into(), i as u32)).collect();
        Names { names, index, metadata }
    }
    fn id(&self, name: &[u8]) -> Option<u32> {
        self.index.get(name).copied()
    }
}

/// Values of a shredded key's type.
pub enum Typed {
    /// Strings.
    String(Texts),
    /// Integers.
    Int(Vec<i64>),
    /// Doubles.
    Double(Vec<f64>),
    /// Truth values.
    Bool(Vec<bool>),
}

impl Typed {
    fn new(ty: ShredType) -> Self {
        match ty {
            ShredType::String => Typed::String(Texts::default()),
            ShredType::Int => Typed::Int(Vec::new()),
            ShredType::Double => Typed::Double(Vec::new()),
            ShredType::Bool => Typed::Bool(Vec::new()),
        }
    }
    /// As they are written.
    pub fn values(&self) -> Values<'_> {
        match self {
            Typed::String(t) => Values::Texts(t),
            Typed::Int(v) => Values::I64(v),
            Typed::Double(v) => Values::F64(v),
            Typed::Bool(v) => Values::Bool(v),
        }
    }
    fn size_bytes(&self) -> usize {
        match self {
            Typed::String(t) => t.size_bytes(),
            Typed::Int(v) => v.len() * 8,
            Typed::Double(v) => v.len() * 8,
            Typed::Bool(v) => v.len(),
        }
    }
    fn clear(&mut self) {
        match self {
            Typed::String(t) => t.clear(),
            Typed::Int(v) => v.clear(),
            Typed::Double(v) => v.clear(),
            Typed::Bool(v) => v.clear(),
        }
    }
}

/// A shredded key's two columns.
pub struct KeyColumns {
    key: ShredKey,
    /// Entries with a value of the key's type.
    pub typed_at: Vec<u32>,
    /// Those values.
    pub typed: Typed,
    /// Entries with a value of another type.
    pub other_at: Vec<u32>,
    /// Those values, as VARIANT.
    pub other: Texts,
    /// The key that followed this one last time: senders write attributes in the same order over and over.
    next: u32,
    /// How many of the values were gathered from other blocks, before others were pushed.
    gathered: usize,
}

impl KeyColumns {
    /// Takes what other blocks' columns of this type hold, before anything is pushed.
    pub fn gather(&mut self, typed: Typed, at: Vec<u32>) {
        self.gathered = at.len();
        (self.typed, self.typed_at) = (typed, at);
    }

    /// Puts what was pushed where it belongs among what was gathered.
    fn settle(&mut self) {
        fn pick<T: Copy>(v: &mut Vec<T>, order: &[u32]) {
            *v = order.iter().map(|i| v[*i as usize]).collect();
        }
        if self.gathered == 0 || self.gathered == self.typed_at.len() {
            return;
        }
        let mut order: Vec<u32> = (0..self.typed_at.len() as u32).collect();
        order.sort_by_key(|i| self.typed_at[*i as usize]);
        pick(&mut self.typed_at, &order);
        match &mut self.typed {
            Typed::String(t) => pick(&mut t.ids, &order),
            Typed::Int(v) => pick(v, &order),
            Typed::Double(v) => pick(v, &order),
            Typed::Bool(v) => pick(v, &order),
        }
    }

    fn has(&self, at: u32) -> bool {
        self.typed_at.last() == Some(&at) || self.typed_at[..self.gathered].binary_search(&at).is_ok()
    }
}

/// Metadata, value, and shredded columns of one VARIANT group.
pub struct VariantColumns {
    /// One for each entry.
    pub metadata: Texts,
    /// Entries with attributes that are not shredded.
    pub rest_at: Vec<u32>,
    /// Those, as VARIANT objects.
    pub rest: Texts,
    /// In the order of their names.
    pub keys: Vec<KeyColumns>,
    index: HashMap<Box<[u8]>, u32>,
    first: u32,
    /// Where the common metadata stands among the distinct ones, once it is there.
    common: Option<u32>,
    scratch: Vec<u8>,
}

/// All names below a value.
fn names_of<'a>(v: &RawValue<'a>, out: &mut Vec<&'a [u8]>) -> Result<()> {
    match v {
        RawValue::Array(b) => array_values(b).try_for_each(|v| names_of(&v?, out)),
        RawValue::Map(b) => attributes(b, 1).try_for_each(|kv| {
            let (k, v) = kv?;
            out.push(k);
            names_of(&v, out)
        }),
        _ => Ok(()),
    }
}

/// Appends a value as VARIANT; `id` numbers names in the metadata. Depth was limited on arrival.
fn encode(v: &RawValue<'_>, id: &dyn Fn(&[u8]) -> u32, out: &mut Vec<u8>) -> Result<()> {
    match v {
        RawValue::Empty => variant::put_null(out),
        RawValue::Str(s) => variant::put_str(out, s),
        RawValue::Bool(b) => variant::put_bool(out, *b),
        RawValue::Int(i) => variant::put_int(out, *i),
        RawValue::Double(d) => variant::put_double(out, *d),
        RawValue::Bytes(b) => variant::put_bytes(out, b),
        RawValue::Array(b) => {
            let mut values = Vec::new();
            for v in array_values(b) {
                let mut one = Vec::new();
                encode(&v?, id, &mut one)?;
                values.push(one);
            }
            variant::put_array(out, &values);
        }
        RawValue::Map(b) => {
            let fields = attributes(b, 1).collect::<Result<Vec<_>>>()?;
            encode_object(fields, id, out)?;
        }
    }
    Ok(())
}

fn encode_object(mut fields: Vec<(&[u8], RawValue<'_>)>, id: &dyn Fn(&[u8]) -> u32, out: &mut Vec<u8>) -> Result<()> {
    fields.sort_by(|a, b| a.0.cmp(b.0));
    fields.dedup_by(|b, a| a.0 == b.0);
    let mut encoded = Vec::with_capacity(fields.len());
    for (k, v) in fields {
        let mut one = Vec::new();
        encode(&v, id, &mut one)?;
        encoded.push((id(k), one));
    }
    variant::put_object(out, &encoded);
    Ok(())
}

/// Metadata and value of attributes that are not shredded; the common metadata if it has all names.
pub fn encode_attributes<'a>(
    names: &Names,
    attributes: impl Iterator<Item = Result<(&'a [u8], RawValue<'a>)>>,
) -> Result<(Vec<u8>, Vec<u8>)> {
    let fields = attributes.collect::<Result<Vec<_>>>()?;
    let mut used = Vec::new();
    for (k, v) in &fields {
        used.push(*k);
        names_of(v, &mut used)?;
    }
    let mut out = Vec::new();
    if used.iter().all(|n| names.id(n).is_some()) {
        encode_object(fields, &|n| names.id(n).unwrap_or(0), &mut out)?;
        return Ok((names.metadata.clone(), out));
    }
    used.sort_unstable();
    used.dedup();
    encode_object(fields, &|n| used.binary_search(&n).unwrap_or(0) as u32, &mut out)?;
    Ok((variant::encode_metadata(&used), out))
}

impl VariantColumns {
    /// With columns for `keys`.
    pub fn new(keys: &[ShredKey]) -> Self {
        let columns = keys.iter().map(|k| KeyColumns {
            key: k.clone(),
            typed_at: Vec::new(),
            typed: Typed::new(k.ty),
            other_at: Vec::new(),
            other: Texts::default(),
            next: 0,
            gathered: 0,
        });
        VariantColumns {
            metadata: Texts::default(),
            rest_at: Vec::new(),
            rest: Texts::default(),
            keys: columns.collect(),
            index: keys.iter().enumerate().map(|(i, k)| (k.name.as_bytes().into(), i as u32)).collect(),
            first: 0,
            common: None,
            scratch: Vec::new(),
        }
    }

    /// Bytes of memory in use.
    pub fn size_bytes(&self) -> usize {
        let key = |k: &KeyColumns| (k.typed_at.len() + k.other_at.len()) * 4 + k.typed.size_bytes() + k.other.size_bytes();
        self.metadata.size_bytes() + self.rest.size_bytes() + self.rest_at.len() * 4 + self.keys.iter().map(key).sum::<usize>()
    }

    /// Forgets the entries, keeps the memory.
    pub fn clear(&mut self) {
        self.metadata.clear();
        self.rest_at.clear();
        self.rest.clear();
        self.common = None;
        for k in &mut self.keys {
            k.typed_at.clear();
            k.typed.clear();
            k.other_at.clear();
            k.other.clear();
            k.gathered = 0;
        }
    }

    /// Ends entries that were gathered in part.
    pub fn settle(&mut self) {
        self.keys.iter_mut().for_each(KeyColumns::settle);
    }

    #[inline]
    fn find(&self, guess: u32, key: &[u8]) -> Option<u32> {
        match self.keys.get(guess as usize) {
            Some(k) if k.key.name.as_bytes() == key => Some(guess),
            _ => self.index.get(key).copied(),
        }
    }

    /// Adds the attributes of entry `at`.
    pub fn push<'a>(&mut self, at: u32, names: &Names, attributes: impl Iterator<Item = Result<(&'a [u8], RawValue<'a>)>>) -> Result<()> {
        let mut guess = self.first;
        let mut previous = None;
        // What has no typed column; seldom anything.
        let mut odd: Vec<(Option<u32>, &'a [u8], RawValue<'a>)> = Vec::new();
        for kv in attributes {
            let (key, value) = kv?;
            let Some(k) = self.find(guess, key) else {
                odd.push((None, key, value));
                continue;
            };
            match previous {
                Some(p) => {
                    let p: &mut KeyColumns = &mut self.keys[p as usize];
                    p.next = k;
                }
                None => self.first = k,
            }
            previous = Some(k);
            let column = &mut self.keys[k as usize];
            guess = column.next;
            if column.has(at) || odd.iter().any(|o| o.0 == Some(k)) {
                continue; // of a key sent twice the first stays
            }
            match (&mut column.typed, value) {
                (Typed::String(t), RawValue::Str(s)) => t.push(s),
                (Typed::Int(v), RawValue::Int(i)) => v.push(i),
                (Typed::Double(v), RawValue::Double(d)) => v.push(d),
                (Typed::Bool(v), RawValue::Bool(b)) => v.push(b),
                _ => {
                    odd.push((Some(k), key, value));
                    continue;
                }
            }
            column.typed_at.push(at);
        }
        if odd.is_empty() {
            self.push_common(names);
            return Ok(());
        }
        self.push_odd(at, names, odd)
    }

    /// Nearly every entry has the metadata that all share, which is long: it is not looked up again.
    #[inline]
    pub fn push_common(&mut self, names: &Names) {
        let Texts { dict, ids } = &mut self.metadata;
        ids.push(*self.common.get_or_insert_with(|| dict.intern(&names.metadata)));
    }

    fn push_odd<'a>(&mut self, at: u32, names: &Names, odd: Vec<(Option<u32>, &'a [u8], RawValue<'a>)>) -> Result<()> {
        let mut used: Vec<&'a [u8]> = Vec::new();
        for (_, k, v) in &odd {
            used.push(k);
            names_of(v, &mut used)?;
        }
        let common = used.iter().all(|n| names.id(n).is_some());
        if !common {
            // The specification wants the shredded names of the row listed too.
            let shredded: Vec<String> = self.keys.iter().filter(|k| k.has(at)).map(|k| k.key.name.clone()).collect();
            let mut all: Vec<&[u8]> = used.iter().copied().chain(shredded.iter().map(String::as_bytes)).collect();
            all.sort_unstable();
            all.dedup();
            self.metadata.push(&variant::encode_metadata(&all));
            return self.encode_odd(at, odd, &|n| all.binary_search(&n).unwrap_or(0) as u32);
        }
        self.push_common(names);
        self.encode_odd(at, odd, &|n| names.id(n).unwrap_or(0))
    }

    fn encode_odd(&mut self, at: u32, odd: Vec<(Option<u32>, &[u8], RawValue<'_>)>, id: &dyn Fn(&[u8]) -> u32) -> Result<()> {
        let mut rest = Vec::new();
        for (column, key, value) in odd {
            let Some(k) = column else {
                rest.push((key, value));
                continue;
            };
            self.scratch.clear();
            encode(&value, id, &mut self.scratch)?;
            let column = &mut self.keys[k as usize];
            column.other_at.push(at);
            column.other.push(&self.scratch);
        }
        if !rest.is_empty() {
            self.scratch.clear();
            encode_object(rest, id, &mut self.scratch)?;
            self.rest_at.push(at);
            self.rest.push(&self.scratch);
        }
        Ok(())
    }
}
