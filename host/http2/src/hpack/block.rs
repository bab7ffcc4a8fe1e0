//! A header block: one buffer, and an index of it.
//!
//! ```text
//!   bytes    waymark-servicegreeter/demo.Greeter/SayHello…       values, and names that are not known
//!   fields   [Method, exact 3] [Path, value 22..45] [Other, name 0..15, value 15..22] …
//! ```
//!
//! Nothing is moved in an edit: a new value goes to the end of the buffer, and the index is
//! changed.

use super::{Known, OVERHEAD, known, scan};
use crate::fault::Fault;

/// What [`Block::push`] and [`Block::set`] refuse: a name or a value that HTTP/2 does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalid;

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a name or a value that HTTP/2 does not allow")
    }
}

impl std::error::Error for Invalid {}

/// Where one field lies, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    name: u32,
    name_len: u32,
    value: u32,
    value_len: u32,
    /// Of its value, seeded with its name.
    pub(super) hash: u32,
    pub(super) known: Known,
    /// The entry of the static table that is exactly this field, or 0. Then its value is that
    /// one's, and `hash` is not set.
    pub(super) exact: u8,
    pub(super) sensitive: bool,
}

/// One field of a [`Block`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name, in lower case.
    pub name: &'a [u8],
    /// Its value. Any bytes but NUL, CR and LF, and no blank at either end.
    pub value: &'a [u8],
    /// Its name as a number.
    pub known: Known,
    /// Whether it must be in no table, here or after us.
    pub sensitive: bool,
}

impl std::fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = if self.sensitive { &b"***"[..] } else { self.value };
        write!(f, "{}: {}", self.name.escape_ascii(), value.escape_ascii())
    }
}

/// The fields of a request, a response or trailers, in their order, pseudo-header fields first.
#[derive(Clone, Default)]
pub struct Block {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    /// The known names in it, by [`Known::bit`].
    names: u128,
    size: usize,
    /// The first thing that is wrong with it.
    pub(crate) flaw: Option<Fault>,
}

impl Block {
    /// An empty block.
    pub fn new() -> Self {
        Self::default()
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.slots.clear();
        self.names = 0;
        self.size = 0;
        self.flaw = None;
    }

    /// How many fields it has.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether it has no fields.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Its size as limits count it: names, values and 32 a field (RFC 9113, section 6.5.2).
    pub fn size(&self) -> usize {
        self.size
    }

    /// The fields in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Field<'_>> {
        self.slots.iter().map(|slot| self.field(slot))
    }

    /// Whether there is a field with this name.
    pub fn has(&self, known: Known) -> bool {
        self.names & known.bit() != 0
    }

    /// The value of the first field with this name.
    pub fn get(&self, known: Known) -> Option<&[u8]> {
        if !self.has(known) {
            return None;
        }
        self.slots.iter().find(|slot| slot.known == known).map(|slot| self.value(slot))
    }

    /// The value of the first field with this name, which may be a known one.
    pub fn find(&self, name: &[u8]) -> Option<&[u8]> {
        match Known::of(name) {
            Known::Other => self.slots.iter().find(|slot| self.is(slot, name)).map(|slot| self.value(slot)),
            known => self.get(known),
        }
    }

    /// Adds a field at the end; a pseudo-header field goes behind those that are there.
    pub fn push(&mut self, name: &[u8], value: &[u8]) -> Result<(), Invalid> {
        match Known::of(name) {
            Known::Other if !scan::is_name(name) => Err(Invalid),
            Known::Other => self.add(Known::Other, name, value, false),
            known => self.add(known, &[], value, false),
        }
    }

    /// Adds a field with a known name.
    pub fn push_known(&mut self, known: Known, value: &[u8]) -> Result<(), Invalid> {
        if known == Known::Other { Err(Invalid) } else { self.add(known, &[], value, false) }
    }

    /// Adds a field that must be in no table (RFC 7541, section 7.1.3).
    pub fn push_sensitive(&mut self, name: &[u8], value: &[u8]) -> Result<(), Invalid> {
        match Known::of(name) {
            Known::Other if !scan::is_name(name) => Err(Invalid),
            Known::Other => self.add(Known::Other, name, value, true),
            known => self.add(known, &[], value, true),
        }
    }

    fn add(&mut self, known: Known, name: &[u8], value: &[u8], sensitive: bool) -> Result<(), Invalid> {
        let (hash, valid) = scan::value(seed(known, name), value);
        if !valid {
            return Err(Invalid);
        }
        let place = if known.is_pseudo() {
            self.slots.iter().take_while(|slot| slot.known.is_pseudo()).count()
        } else {
            self.slots.len()
        };
        let slot = self.write(known, name, value, hash, sensitive);
        self.slots.insert(place, slot);
        Ok(())
    }

    /// Gives the first field with this name another value, or adds one. It stays sensitive if it
    /// was.
    pub fn set(&mut self, known: Known, value: &[u8]) -> Result<(), Invalid> {
        if !self.has(known) {
            return self.push_known(known, value);
        }
        let Some(place) = self.slots.iter().position(|slot| slot.known == known) else {
            return Err(Invalid);
        };
        let (hash, valid) = scan::value(seed(known, &[]), value);
        if !valid {
            return Err(Invalid);
        }
        let was = self.slots[place];
        self.size -= self.counts(&was);
        self.slots[place] = self.write(known, &[], value, hash, was.sensitive);
        Ok(())
    }

    /// Takes all fields with this name out. Returns whether there was one.
    pub fn remove(&mut self, known: Known) -> bool {
        let had = known != Known::Other && self.has(known);
        if had {
            self.retain(|_, slot| slot.known != known);
            self.names &= !known.bit();
        }
        had
    }

    /// Takes all fields with this name out, which may be a known one. Returns whether there was
    /// one.
    pub fn remove_name(&mut self, name: &[u8]) -> bool {
        match Known::of(name) {
            Known::Other => self.retain(|block, slot| !block.is(slot, name)),
            known => self.remove(known),
        }
    }

    fn retain(&mut self, keep: impl Fn(&Self, &Slot) -> bool) -> bool {
        let mut slots = std::mem::take(&mut self.slots);
        let before = slots.len();
        let mut gone = 0;
        slots.retain(|slot| {
            let stays = keep(self, slot);
            gone += if stays { 0 } else { self.counts(slot) };
            stays
        });
        self.size -= gone;
        self.slots = slots;
        self.slots.len() < before
    }

    /// Writes the bytes of a field, and says where they are.
    fn write(&mut self, known: Known, name: &[u8], value: &[u8], hash: u32, sensitive: bool) -> Slot {
        let exact = if sensitive { 0 } else { known.exact(value) };
        let start = self.bytes.len() as u32;
        if exact == 0 {
            self.bytes.extend_from_slice(name);
            self.bytes.extend_from_slice(value);
        }
        let name_len = name.len() as u32;
        let slot = Slot {
            name: start,
            name_len,
            value: start + name_len,
            value_len: value.len() as u32,
            hash,
            known,
            exact,
            sensitive,
        };
        self.names |= known.bit();
        self.size += self.counts(&slot);
        slot
    }

    fn counts(&self, slot: &Slot) -> usize {
        self.name(slot).len() + slot.value_len as usize + OVERHEAD
    }

    fn field(&self, slot: &Slot) -> Field<'_> {
        Field { name: self.name(slot), value: self.value(slot), known: slot.known, sensitive: slot.sensitive }
    }

    fn is(&self, slot: &Slot, name: &[u8]) -> bool {
        slot.known == Known::Other && self.name(slot) == name
    }

    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(super) fn name(&self, slot: &Slot) -> &[u8] {
        if slot.known == Known::Other {
            &self.bytes[slot.name as usize..(slot.name + slot.name_len) as usize]
        } else {
            slot.known.name().as_bytes()
        }
    }

    pub(super) fn value(&self, slot: &Slot) -> &[u8] {
        if slot.exact == 0 {
            &self.bytes[slot.value as usize..(slot.value + slot.value_len) as usize]
        } else {
            known::ENTRIES[slot.exact as usize].1.as_bytes()
        }
    }

    // What follows is for the decoder: it adds what has been read, and notes what is wrong with it.

    /// Adds an entry of the static table, whole.
    pub(super) fn read_exact(&mut self, index: u8) {
        let (known, value) = known::ENTRIES[index as usize];
        let slot = Slot {
            name: 0,
            name_len: 0,
            value: 0,
            value_len: value.len() as u32,
            hash: seed(known, &[]),
            known,
            // One without a value is like any other field with this name.
            exact: if value.is_empty() { 0 } else { index },
            sensitive: false,
        };
        self.read(slot, None);
    }

    /// Adds a field whose bytes are another one's: an entry of the dynamic table.
    pub(super) fn read_copy(&mut self, known: Known, name: &[u8], value: &[u8], hash: u32, flaw: Option<Fault>) {
        let start = self.bytes.len() as u32;
        let name_len = if known == Known::Other { name.len() as u32 } else { 0 };
        if name_len > 0 {
            self.bytes.extend_from_slice(name);
        }
        self.bytes.extend_from_slice(value);
        let slot = Slot {
            name: start,
            name_len,
            value: start + name_len,
            value_len: value.len() as u32,
            hash,
            known,
            exact: 0,
            sensitive: false,
        };
        self.read(slot, flaw);
    }

    /// The buffer, to write a name and a value to the end of it.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Adds the field that was written to the end of the buffer: the name, unless it is known, and
    /// the value. Returns its hash and what is wrong with it.
    pub(super) fn read_written(
        &mut self,
        known: Known,
        start: usize,
        name_len: usize,
        sensitive: bool,
        store: bool,
    ) -> (u32, Option<Fault>) {
        let (name, value) = self.bytes[start..].split_at(name_len);
        let (hash, valid) = scan::value(seed(known, name), value);
        let flaw = if known == Known::Other && !scan::is_name(name) {
            Some(if name.first() == Some(&b':') { Fault::PseudoHeader } else { Fault::HeaderName })
        } else {
            (!valid).then_some(Fault::HeaderValue)
        };
        if store {
            let exact = if sensitive { 0 } else { known.exact(value) };
            let slot = Slot {
                name: start as u32,
                name_len: name_len as u32,
                value: (start + name_len) as u32,
                value_len: value.len() as u32,
                hash,
                known,
                exact,
                sensitive,
            };
            self.read(slot, flaw);
        }
        (hash, flaw)
    }

    fn read(&mut self, slot: Slot, flaw: Option<Fault>) {
        if slot.known.is_pseudo() {
            let last = self.slots.last();
            if self.has(slot.known) || last.is_some_and(|last| !last.known.is_pseudo()) {
                self.note(Fault::PseudoHeader);
            }
        }
        if let Some(flaw) = flaw {
            self.note(flaw);
        }
        self.names |= slot.known.bit();
        self.size += self.counts(&slot);
        self.slots.push(slot);
    }

    /// How much memory it holds.
    pub(crate) fn held(&self) -> usize {
        self.bytes.capacity() + self.slots.capacity() * size_of::<Slot>()
    }

    fn note(&mut self, flaw: Fault) {
        self.flaw = self.flaw.or(Some(flaw));
    }

    /// How many fields have this name.
    pub(crate) fn count(&self, known: Known) -> usize {
        if self.has(known) { self.slots.iter().filter(|slot| slot.known == known).count() } else { 0 }
    }

    /// The known names in it, by [`Known::bit`].
    pub(crate) fn names(&self) -> u128 {
        self.names
    }
}

/// What the hash of a value begins with.
pub(super) fn seed(known: Known, name: &[u8]) -> u32 {
    if known == Known::Other { scan::value(0, name).0 } else { (known as u32).wrapping_mul(0x9e37_79b1) }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for Block {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Block {
        let mut block = Block::new();
        for (name, value) in [
            (":method", "POST"),
            (":path", "/demo.Greeter/SayHello"),
            ("waymark-service", "greeter"),
            ("grpc-timeout", "1S"),
            ("x-a", "1"),
            ("x-a", "2"),
        ] {
            block.push(name.as_bytes(), value.as_bytes()).expect("a valid field");
        }
        block
    }

    #[test]
    fn fields_are_found_by_number_and_by_bytes() {
        let block = request();
        assert_eq!(block.get(Known::Method), Some(&b"POST"[..]));
        assert_eq!(block.find(b":path"), Some(&b"/demo.Greeter/SayHello"[..]));
        assert_eq!(block.find(b"x-a"), Some(&b"1"[..]));
        assert_eq!(block.find(b"x-b"), None);
        assert_eq!(block.get(Known::Te), None);
        let size: usize = block.iter().map(|field| field.name.len() + field.value.len() + 32).sum();
        assert_eq!(block.size(), size);
    }

    #[test]
    fn a_block_is_edited_where_it_is() {
        let mut block = request();
        assert!(block.remove_name(b"waymark-service"));
        assert!(!block.remove_name(b"waymark-service"));
        assert!(block.remove_name(b"x-a"));
        block.set(Known::GrpcTimeout, b"900m").expect("a valid value");
        block.set(Known::Authority, b"a%2Fb").expect("a valid value");
        block.set(Known::Te, b"trailers").expect("a valid value");
        assert_eq!(
            format!("{block:?}"),
            "[:method: POST, :path: /demo.Greeter/SayHello, :authority: a%2Fb, grpc-timeout: 900m, te: trailers]"
        );
        let size: usize = block.iter().map(|field| field.name.len() + field.value.len() + 32).sum();
        assert_eq!(block.size(), size);
        assert!(block.remove(Known::Te) && !block.remove(Known::Te) && !block.has(Known::Te));
    }

    #[test]
    fn what_would_split_a_message_is_refused() {
        let mut block = Block::new();
        assert_eq!(block.push(b"x", b"a\r\nb: c"), Err(Invalid));
        assert_eq!(block.push(b"X", b"a"), Err(Invalid));
        assert_eq!(block.push(b":x", b"a"), Err(Invalid));
        assert_eq!(block.set(Known::Path, b" /"), Err(Invalid));
        assert_eq!(block.push_known(Known::Other, b"a"), Err(Invalid));
        assert!(block.is_empty());
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut block = Block::new();
        block.push_sensitive(b"authorization", b"Bearer x").expect("a valid field");
        assert_eq!(format!("{block:?}"), "[authorization: ***]");
    }
}
