//! The encoder (RFC 7541, section 6).
//!
//! A field is looked for by the hash that came with it, in a small hash table of what was inserted
//! lately: two places a bucket, and the older one is overwritten. A place that was overwritten
//! costs a literal, never a wrong index, because what is found is compared.
//!
//! What is inserted is in [`Indexing`]. A value that changes with each call would push out what all
//! calls have in common, so most names' values are inserted when they are seen the second time.
//!
//! Strings are not Huffman-coded unless it is asked for: nearly all of a call's fields are indexes,
//! and what is left are few and short strings, for which both sides would look up every byte to
//! save a fifth of them. Between data centres that can be worth it, within one it is not.

use super::{Block, Indexing, Known, block::Slot, block::seed, huffman, table::Table};

/// How many buckets of two there are: as many places as the table of 4096 bytes has entries at
/// most.
const BUCKETS: usize = 64;
const NAMES: usize = 64;
const LATELY: usize = 128;

#[derive(Debug)]
struct Places {
    /// Numbers of entries, by the hash of the whole field.
    fields: [[u32; 2]; BUCKETS],
    /// By the hash of the name.
    names: [u32; NAMES],
    /// Hashes of fields that were seen lately and not inserted.
    lately: [u32; LATELY],
}

/// Encodes the header blocks of one connection, in the order in which they are sent.
#[derive(Debug)]
pub struct Encoder {
    table: Table,
    places: Option<Box<Places>>,
    /// The most this side uses, whatever the peer allows.
    most: usize,
    /// Sizes that the next block has to begin with: the lowest there was, and the last one.
    owed: Option<(usize, usize)>,
    huffman: bool,
}

impl Encoder {
    /// An encoder with a table of at most `most` bytes, which are 4096 until the peer's SETTINGS
    /// say something else. With `huffman`, strings are Huffman-coded where that is shorter.
    pub fn new(most: usize, huffman: bool) -> Self {
        let mut encoder = Self { table: Table::new(4096), places: None, most, owed: None, huffman };
        encoder.set_peer_size(4096);
        encoder
    }

    /// What the peer's SETTINGS say.
    pub fn set_peer_size(&mut self, size: usize) {
        let size = size.min(self.most);
        if size != self.table.max() {
            let lowest = self.owed.map_or(size, |(lowest, _)| lowest.min(size));
            self.owed = Some((lowest, size));
            self.table.resize(size);
        }
    }

    /// Encodes `block` to the end of `out`.
    pub fn encode(&mut self, block: &Block, out: &mut Vec<u8>) {
        if let Some((lowest, last)) = self.owed.take() {
            if lowest < last {
                integer(out, 0x20, 5, lowest);
            }
            integer(out, 0x20, 5, last);
        }
        for slot in block.slots() {
            if slot.exact != 0 {
                out.push(0x80 | slot.exact);
            } else {
                self.field(block, slot, out);
            }
        }
    }

    fn field(&mut self, block: &Block, slot: &Slot, out: &mut Vec<u8>) {
        let (name, value) = (block.name(slot), block.value(slot));
        let indexing = slot.known.indexing();
        let never = slot.sensitive || indexing == Indexing::Never;
        if !never && let Some(index) = self.find(slot, name, value) {
            integer(out, 0x80, 7, index + 62);
            return;
        }
        let fixed = slot.known.static_index() as usize;
        let name_index = if fixed > 0 { Some(fixed) } else { self.find_name(slot.known, name) };
        let insert = !never
            // A large value would push out most others.
            && name.len() + value.len() <= self.table.max() / 4
            && match indexing {
                Indexing::Once => true,
                Indexing::Seen => name_index.is_none() || self.seen_lately(slot.hash),
                Indexing::Volatile => name_index.is_none(),
                Indexing::Never => false,
            };
        match (insert, name_index) {
            (true, index) => integer(out, 0x40, 6, index.unwrap_or(0)),
            (false, index) => integer(out, if never { 0x10 } else { 0 }, 4, index.unwrap_or(0)),
        }
        if name_index.is_none() {
            self.string(name, out);
        }
        self.string(value, out);
        if insert {
            self.insert(slot, name, value);
        }
    }

    fn find(&self, slot: &Slot, name: &[u8], value: &[u8]) -> Option<usize> {
        let bucket = self.places.as_deref()?.fields[slot.hash as usize % BUCKETS];
        bucket.into_iter().find_map(|number| {
            let index = self.table.index(number)?;
            let entry = self.table.get(index)?;
            let same = entry.hash == slot.hash
                && entry.known == slot.known
                && self.table.value(entry) == value
                && (slot.known != Known::Other || self.table.name(entry) == name);
            same.then_some(index)
        })
    }

    fn find_name(&self, known: Known, name: &[u8]) -> Option<usize> {
        let number = self.places.as_deref()?.names[seed(known, name) as usize % NAMES];
        let index = self.table.index(number)?;
        let entry = self.table.get(index)?;
        let same = entry.known == known && (known != Known::Other || self.table.name(entry) == name);
        same.then_some(index + 62)
    }

    fn seen_lately(&mut self, hash: u32) -> bool {
        let lately = &mut self.places().lately[(hash >> 8) as usize % LATELY];
        std::mem::replace(lately, hash) == hash
    }

    fn insert(&mut self, slot: &Slot, name: &[u8], value: &[u8]) {
        let number = self.table.inserted();
        let stored = if slot.known == Known::Other { name } else { &[] };
        if self.table.insert(slot.known, stored, value, slot.hash, None) {
            let places = self.places();
            let bucket = &mut places.fields[slot.hash as usize % BUCKETS];
            *bucket = [number, bucket[0]];
            places.names[seed(slot.known, name) as usize % NAMES] = number;
        }
    }

    fn places(&mut self) -> &mut Places {
        self.places.get_or_insert_with(|| {
            Box::new(Places { fields: [[u32::MAX; 2]; BUCKETS], names: [u32::MAX; NAMES], lately: [0; LATELY] })
        })
    }

    fn string(&self, plain: &[u8], out: &mut Vec<u8>) {
        if self.huffman {
            let coded = huffman::encoded_len(plain);
            if coded < plain.len() {
                integer(out, 0x80, 7, coded);
                huffman::encode(plain, out);
                return;
            }
        }
        integer(out, 0, 7, plain.len());
        out.extend_from_slice(plain);
    }
}

/// An integer with a prefix of so many bits, below `flags` (RFC 7541, section 5.1).
#[inline]
fn integer(out: &mut Vec<u8>, flags: u8, bits: u32, value: usize) {
    let mask = (1 << bits) - 1;
    if value < mask {
        out.push(flags | value as u8);
    } else {
        long_integer(out, flags, mask, value);
    }
}

#[cold]
fn long_integer(out: &mut Vec<u8>, flags: u8, mask: usize, value: usize) {
    out.push(flags | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hpack::{Decoder, Read};

    fn block(fields: &[(&str, &str)]) -> Block {
        let mut block = Block::new();
        for (name, value) in fields {
            block.push(name.as_bytes(), value.as_bytes()).expect("a valid field");
        }
        block
    }

    fn wire(encoder: &mut Encoder, block: &Block) -> Vec<u8> {
        let mut out = Vec::new();
        encoder.encode(block, &mut out);
        out
    }

    #[test]
    fn huffman_requests_of_appendix_c_4_come_out_as_there() {
        let mut encoder = Encoder::new(4096, true);
        let first =
            block(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")]);
        let expected =
            [0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(wire(&mut encoder, &first), expected);
        assert_eq!(wire(&mut encoder, &first), [0x82, 0x86, 0x84, 0xbe]);
    }

    #[test]
    fn a_call_that_is_made_again_is_all_indexes() {
        let mut encoder = Encoder::new(4096, false);
        let call = block(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/demo.Greeter/SayHello"),
            (":authority", "greeter"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "grpc-go/1.80"),
            ("x-tenant", "blue"),
        ]);
        wire(&mut encoder, &call);
        // The path is inserted when it comes again.
        wire(&mut encoder, &call);
        assert_eq!(wire(&mut encoder, &call).len(), 8);
    }

    #[test]
    fn values_that_change_do_not_push_out_those_that_stay() {
        let mut encoder = Encoder::new(4096, false);
        let mut last = 0;
        for call in 0..1000 {
            let block = block(&[
                ("te", "trailers"),
                ("x-tenant", "blue"),
                ("grpc-timeout", &format!("{call}m")),
                ("x-call", &format!("call-{call}")),
            ]);
            last = wire(&mut encoder, &block).len();
        }
        assert!(last <= 2 + 7 + 11, "{last}");
        assert!(encoder.table.size() < 300);
    }

    #[test]
    fn secrets_are_never_indexed() {
        let mut encoder = Encoder::new(4096, false);
        for (name, index) in [
            ("authorization", [0x1f, 8]),
            ("cookie", [0x1f, 17]),
            ("set-cookie", [0x1f, 40]),
            ("proxy-authorization", [0x1f, 34]),
        ] {
            for _ in 0..3 {
                assert_eq!(wire(&mut encoder, &block(&[(name, "x")]))[..2], index, "{name}");
            }
        }
        let mut marked = Block::new();
        marked.push_sensitive(b"x-key", b"1").expect("a valid field");
        for _ in 0..3 {
            assert_eq!(wire(&mut encoder, &marked)[0], 0x10);
        }
        assert_eq!(encoder.table.size(), 0);
    }

    #[test]
    fn sizes_are_told_lowest_first() {
        let mut encoder = Encoder::new(4096, false);
        wire(&mut encoder, &block(&[("te", "trailers")]));
        encoder.set_peer_size(0);
        encoder.set_peer_size(100);
        let out = wire(&mut encoder, &block(&[(":method", "GET")]));
        assert_eq!(out, [0x20, 0x3f, 69, 0x82]);
        encoder.set_peer_size(1 << 20);
        assert_eq!(wire(&mut encoder, &block(&[(":method", "GET")]))[..2], [0x3f, 0xe1]);
    }

    prop_compose! {
        fn field()(
            name in prop_oneof![
                "[a-z0-9_-]{1,12}",
                prop::sample::select(vec![":path", "te", "grpc-status", "cookie", "content-type", "x-a", "date"])
                    .prop_map(str::to_owned)
            ],
            value in prop_oneof!["[!-~]{0,40}", "[!-~]{1}", prop::collection::vec(0x80_u8.., 0..200)
                .prop_map(|bytes| bytes.escape_ascii().to_string())],
            sensitive: bool,
        ) -> (String, String, bool) {
            (name, value, sensitive)
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes(
            blocks in prop::collection::vec(prop::collection::vec(field(), 0..12), 1..12),
            sizes in prop::collection::vec(prop_oneof![Just(0), Just(64), 32..5000_usize], 1..12),
            huffman: bool,
        ) {
            let mut encoder = Encoder::new(4096, huffman);
            let mut decoder = Decoder::new();
            for (at, fields) in blocks.iter().enumerate() {
                let size = sizes[at % sizes.len()];
                encoder.set_peer_size(size);
                let mut block = Block::new();
                for (name, value, sensitive) in fields {
                    let pushed = if *sensitive {
                        block.push_sensitive(name.as_bytes(), value.as_bytes())
                    } else {
                        block.push(name.as_bytes(), value.as_bytes())
                    };
                    prop_assert!(pushed.is_ok());
                }
                let out = wire(&mut encoder, &block);
                let mut read = Block::new();
                prop_assert_eq!(decoder.decode(&out, 1 << 20, &mut read), Ok(Read::Whole));
                let pairs = |block: &Block| -> Vec<_> {
                    block.iter().map(|field| (field.name.to_vec(), field.value.to_vec())).collect()
                };
                prop_assert_eq!(pairs(&read), pairs(&block));
                prop_assert_eq!(decoder.table_size(), encoder.table.size());
                prop_assert_eq!(read.size(), block.size());
                // And what was read goes on as it came.
                let mut relayed = Block::new();
                let onward = wire(&mut Encoder::new(4096, false), &read);
                prop_assert_eq!(Decoder::new().decode(&onward, 1 << 20, &mut relayed), Ok(Read::Whole));
                prop_assert_eq!(pairs(&relayed), pairs(&block));
            }
        }

        #[test]
        fn any_bytes_end(wire: Vec<u8>) {
            let _ = Decoder::new().decode(&wire, 1000, &mut Block::new());
        }
    }
}
