//! A vector in pages: grows without copying and without the slack of doubling.

const PAGE: usize = 1024;

/// Items by dense index; indices once given stay valid.
#[derive(Debug)]
pub struct Slab<T> {
    pages: Vec<Vec<T>>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { pages: Vec::new(), len: 0 }
    }
}

impl<T> Slab<T> {
    /// Number of items.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Adds an item; gives its index.
    pub fn push(&mut self, item: T) -> usize {
        if self.len.is_multiple_of(PAGE) {
            // The first page grows as a vector does, so that a small database stays small.
            self.pages.push(if self.len == 0 { Vec::new() } else { Vec::with_capacity(PAGE) });
        }
        if let Some(p) = self.pages.last_mut() {
            p.push(item);
        }
        self.len += 1;
        self.len - 1
    }
    /// The item at `i`.
    #[inline]
    pub fn get(&self, i: usize) -> Option<&T> {
        self.pages.get(i / PAGE)?.get(i % PAGE)
    }
    /// The item at `i`.
    #[inline]
    pub fn get_mut(&mut self, i: usize) -> Option<&mut T> {
        self.pages.get_mut(i / PAGE)?.get_mut(i % PAGE)
    }
    /// All items in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flatten()
    }
    /// All items in order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.pages.iter_mut().flatten()
    }
    /// Heap bytes of the pages, not of what items own.
    pub fn size_bytes(&self) -> usize {
        self.pages.iter().map(|p| p.capacity() * size_of::<T>()).sum::<usize>() + self.pages.capacity() * size_of::<Vec<T>>()
    }
}
