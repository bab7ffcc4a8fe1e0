//! The decoder (RFC 7541, sections 3 and 6).

use super::{Block, Known, huffman, known::ENTRIES, table::Table};

/// A header block that cannot be decoded, after which the tables of both sides differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bad;

/// What became of a header block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    /// All of it is in the block.
    Whole,
    /// It is larger than the limit: the block has only its beginning. The table is up to date.
    TooLarge,
}

/// Decodes the header blocks of one connection, in their order.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// The most the peer may set the table's size to.
    ceiling: usize,
    /// Whether the next block has to begin with a new size, since the ceiling fell below the old
    /// one.
    owed: bool,
}

impl Decoder {
    /// A decoder whose table has at most this size. The peer begins with 4096, as the RFC has it.
    pub fn new() -> Self {
        Self { table: Table::new(4096), ceiling: 4096, owed: false }
    }

    /// What this side's SETTINGS say, from when the peer acknowledged them.
    pub(crate) fn set_ceiling(&mut self, ceiling: usize) {
        self.ceiling = ceiling;
        self.owed = self.table.max() > ceiling;
    }

    /// Decodes a whole header block into `block`, which is empty, up to a size of `limit`. What is
    /// wrong with a field is noted in the block: it concerns only its stream.
    pub(crate) fn decode(&mut self, mut wire: &[u8], limit: usize, block: &mut Block) -> Result<Read, Bad> {
        let mut store = true;
        let mut first = true;
        let mut resized = 0;
        while let Some(&byte) = wire.first() {
            if byte & 0x80 != 0 {
                self.settled()?;
                let index = integer(&mut wire, 7)?;
                if store {
                    self.indexed(index, block)?;
                } else {
                    // Only whether there is one.
                    self.name_of(index)?;
                }
                first = false;
            } else if byte & 0xe0 == 0x20 {
                let size = integer(&mut wire, 5)?;
                // Two are all that can be needed: the lowest size there was, and the last one.
                resized += 1;
                if !first || size > self.ceiling || resized > 2 {
                    return Err(Bad);
                }
                self.owed = false;
                self.table.resize(size);
                continue;
            } else {
                self.settled()?;
                first = false;
                self.literal(&mut wire, byte, store, block)?;
            }
            if store && block.size() > limit {
                store = false;
            }
        }
        Ok(if store { Read::Whole } else { Read::TooLarge })
    }

    fn settled(&self) -> Result<(), Bad> {
        if self.owed { Err(Bad) } else { Ok(()) }
    }

    fn indexed(&self, index: usize, block: &mut Block) -> Result<(), Bad> {
        match index {
            0 => return Err(Bad),
            1..=61 => block.read_exact(index as u8),
            _ => {
                let entry = self.table.get(index - 62).ok_or(Bad)?;
                let (name, value) = (self.table.name(entry), self.table.value(entry));
                block.read_copy(entry.known, name, value, entry.hash, entry.flaw);
            }
        }
        Ok(())
    }

    fn name_of(&self, index: usize) -> Result<(Known, &[u8]), Bad> {
        match index {
            0 => Err(Bad),
            1..=61 => Ok((ENTRIES[index].0, &[])),
            _ => {
                let entry = self.table.get(index - 62).ok_or(Bad)?;
                Ok((entry.known, if entry.known == Known::Other { self.table.name(entry) } else { &[] }))
            }
        }
    }

    fn literal(&mut self, wire: &mut &[u8], byte: u8, store: bool, block: &mut Block) -> Result<(), Bad> {
        let (bits, indexing) = if byte & 0x40 == 0 { (4, false) } else { (6, true) };
        let sensitive = byte & 0xf0 == 0x10;
        let index = integer(wire, bits)?;
        let start = block.buffer().len();
        let known = if index == 0 {
            string(wire, block.buffer())?;
            let known = Known::of(&block.buffer()[start..]);
            if known != Known::Other {
                block.buffer().truncate(start);
            }
            known
        } else {
            let (known, name) = self.name_of(index)?;
            block.buffer().extend_from_slice(name);
            known
        };
        let name_len = block.buffer().len() - start;
        string(wire, block.buffer())?;
        let (hash, flaw) = block.read_written(known, start, name_len, sensitive, store);
        if indexing {
            let (name, value) = block.buffer()[start..].split_at(name_len);
            self.table.insert(known, name, value, hash, flaw);
        }
        if !store {
            block.buffer().truncate(start);
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn table_size(&self) -> usize {
        self.table.size()
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

/// An integer with a prefix of so many bits (RFC 7541, section 5.1), of at most 28 bits beside it.
fn integer(wire: &mut &[u8], bits: u32) -> Result<usize, Bad> {
    let (&first, mut rest) = wire.split_first().ok_or(Bad)?;
    let mask = (1_usize << bits) - 1;
    let mut value = first as usize & mask;
    if value == mask {
        let mut shift = 0;
        loop {
            let (&byte, after) = rest.split_first().ok_or(Bad)?;
            rest = after;
            value += (byte as usize & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift >= 28 {
                return Err(Bad);
            }
        }
    }
    *wire = rest;
    Ok(value)
}

/// A string (RFC 7541, section 5.2), to the end of `out`.
fn string(wire: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Bad> {
    let coded = wire.first().ok_or(Bad)? & 0x80 != 0;
    let length = integer(wire, 7)?;
    let (string, rest) = wire.split_at_checked(length).ok_or(Bad)?;
    *wire = rest;
    if coded {
        huffman::decode(string, out).map_err(|_| Bad)
    } else {
        out.extend_from_slice(string);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::block::seed, *};
    use crate::fault::Fault;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("hex"))
            .collect()
    }

    fn read(decoder: &mut Decoder, wire: &str) -> String {
        let mut block = Block::new();
        decoder.decode(&hex(wire), 65536, &mut block).expect("a valid block");
        assert_eq!(block.flaw, None);
        block.iter().fold(String::new(), |all, field| {
            all + &format!("{}={} ", field.name.escape_ascii(), field.value.escape_ascii())
        })
    }

    #[test]
    fn integers_of_appendix_c_1() {
        for (wire, bits, value) in [(&[0x0a][..], 5, 10), (&[0x1f, 0x9a, 0x0a], 5, 1337), (&[0x2a], 8, 42)] {
            assert_eq!(integer(&mut &wire[..], bits), Ok(value));
        }
        for wire in [&[][..], &[0x1f], &[0x1f, 0x80], &[0x1f, 0xff, 0xff, 0xff, 0xff, 0x7f]] {
            assert_eq!(integer(&mut &wire[..], 5), Err(Bad));
        }
    }

    #[test]
    fn literals_of_appendix_c_2() {
        let mut decoder = Decoder::new();
        let wire = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
        assert_eq!(read(&mut decoder, wire), "custom-key=custom-header ");
        assert_eq!(decoder.table_size(), 55);
        let mut decoder = Decoder::new();
        assert_eq!(read(&mut decoder, "040c 2f73 616d 706c 652f 7061 7468"), ":path=/sample/path ");
        assert_eq!(decoder.table_size(), 0);
        let wire = hex("1008 7061 7373 776f 7264 0673 6563 7265 74");
        let mut block = Block::new();
        decoder.decode(&wire, 65536, &mut block).expect("a valid block");
        assert!(block.iter().all(|field| field.name == b"password" && field.sensitive));
        assert_eq!(read(&mut decoder, "82"), ":method=GET ");
    }

    const REQUESTS: [&str; 3] = [
        ":method=GET :scheme=http :path=/ :authority=www.example.com ",
        ":method=GET :scheme=http :path=/ :authority=www.example.com cache-control=no-cache ",
        ":method=GET :scheme=https :path=/index.html :authority=www.example.com custom-key=custom-value ",
    ];

    #[test]
    fn requests_of_appendix_c_3() {
        let mut decoder = Decoder::new();
        assert_eq!(read(&mut decoder, "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d"), REQUESTS[0]);
        assert_eq!(decoder.table_size(), 57);
        assert_eq!(read(&mut decoder, "8286 84be 5808 6e6f 2d63 6163 6865"), REQUESTS[1]);
        assert_eq!(decoder.table_size(), 110);
        let wire = "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65";
        assert_eq!(read(&mut decoder, wire), REQUESTS[2]);
        assert_eq!(decoder.table_size(), 164);
    }

    #[test]
    fn requests_of_appendix_c_4() {
        let mut decoder = Decoder::new();
        assert_eq!(read(&mut decoder, "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff"), REQUESTS[0]);
        assert_eq!(read(&mut decoder, "8286 84be 5886 a8eb 1064 9cbf"), REQUESTS[1]);
        assert_eq!(read(&mut decoder, "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf"), REQUESTS[2]);
        assert_eq!(decoder.table_size(), 164);
    }

    const RESPONSES: [&str; 3] = [
        ":status=302 cache-control=private date=Mon, 21 Oct 2013 20:13:21 GMT location=https://www.example.com ",
        ":status=307 cache-control=private date=Mon, 21 Oct 2013 20:13:21 GMT location=https://www.example.com ",
        ":status=200 cache-control=private date=Mon, 21 Oct 2013 20:13:22 GMT location=https://www.example.com \
         content-encoding=gzip set-cookie=foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1 ",
    ];

    #[test]
    fn responses_of_appendix_c_5_evict() {
        let mut decoder = Decoder::new();
        decoder.table.resize(256);
        let wire = "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a \
                    3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d";
        assert_eq!(read(&mut decoder, wire), RESPONSES[0]);
        assert_eq!(decoder.table_size(), 222);
        assert_eq!(read(&mut decoder, "4803 3330 37c1 c0bf"), RESPONSES[1]);
        assert_eq!(decoder.table_size(), 222);
        let wire = "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 \
                    677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 \
                    553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31";
        assert_eq!(read(&mut decoder, wire), RESPONSES[2]);
        assert_eq!(decoder.table_size(), 215);
    }

    #[test]
    fn responses_of_appendix_c_6_evict() {
        let mut decoder = Decoder::new();
        decoder.table.resize(256);
        let wire = "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e \
                    919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3";
        assert_eq!(read(&mut decoder, wire), RESPONSES[0]);
        assert_eq!(read(&mut decoder, "4883 640e ffc1 c0bf"), RESPONSES[1]);
        let wire = "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 \
                    821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed \
                    4ee5 b106 3d50 07";
        assert_eq!(read(&mut decoder, wire), RESPONSES[2]);
        assert_eq!(decoder.table_size(), 215);
    }

    #[test]
    fn what_cannot_be_decoded_is_refused() {
        // Index 0, an index past the table, a name past it, a string cut short, bad Huffman, a size
        // above the ceiling, a size that does not come first, more sizes than two.
        for wire in ["80", "be", "7f00", "4003 61", "0081 00 00", "3fe2 1f", "82 3f e1 1f", "20 3f e1 1f 20 82"] {
            let mut block = Block::new();
            assert_eq!(Decoder::new().decode(&hex(wire), 65536, &mut block), Err(Bad), "{wire}");
        }
    }

    #[test]
    fn a_lower_ceiling_has_to_be_taken_over_first() {
        let mut decoder = Decoder::new();
        decoder.set_ceiling(100);
        assert_eq!(decoder.decode(&hex("82"), 65536, &mut Block::new()), Err(Bad));
        assert_eq!(decoder.decode(&hex("3f45 82"), 65536, &mut Block::new()), Ok(Read::Whole));
        assert_eq!(decoder.table.max(), 100);
    }

    #[test]
    fn a_bomb_of_indexes_is_read_to_its_end_and_not_kept() {
        let mut decoder = Decoder::new();
        let mut wire = vec![0x40, 1, b'a', 0x7f, 0xc1, 0x1d];
        wire.extend([b'x'; 3904]);
        let mut block = Block::new();
        assert_eq!(decoder.decode(&wire, 65536, &mut block), Ok(Read::Whole));
        let bomb = vec![0xbe; 16_000];
        block.clear();
        assert_eq!(decoder.decode(&bomb, 65536, &mut block), Ok(Read::TooLarge));
        assert!(block.size() < 65536 + 4096 && block.held() < 4 * 65536);
        // And one that follows is read as ever, with the table as the peer has it.
        block.clear();
        assert_eq!(decoder.decode(&hex("be"), 65536, &mut block), Ok(Read::Whole));
        assert_eq!(block.find(b"a").map(<[u8]>::len), Some(3904));
    }

    #[test]
    fn a_block_too_large_still_fills_the_table() {
        let mut decoder = Decoder::new();
        let mut block = Block::new();
        let wire = hex("0001 61 0162 4001 63 0164");
        assert_eq!(decoder.decode(&wire, 10, &mut block), Ok(Read::TooLarge));
        assert_eq!(block.len(), 1);
        assert_eq!(read(&mut decoder, "be"), "c=d ");
    }

    #[test]
    fn flaws_stay_with_their_entry() {
        let mut decoder = Decoder::new();
        let mut block = Block::new();
        decoder.decode(&hex("4001 41 0162 4001 61 010a"), 65536, &mut block).expect("it decodes");
        assert_eq!(block.flaw, Some(Fault::HeaderName));
        block.clear();
        decoder.decode(&hex("be"), 65536, &mut block).expect("it decodes");
        assert_eq!(block.flaw, Some(Fault::HeaderValue));
        for (wire, flaw) in [
            ("82 82", Fault::PseudoHeader),
            ("0001 61 0162 82", Fault::PseudoHeader),
            ("0002 3a61 0162", Fault::PseudoHeader),
        ] {
            block.clear();
            decoder.decode(&hex(wire), 65536, &mut block).expect("it decodes");
            assert_eq!(block.flaw, Some(flaw), "{wire}");
        }
    }

    #[test]
    fn seeds_tell_names_apart() {
        assert_ne!(seed(Known::Te, &[]), seed(Known::Host, &[]));
        assert_ne!(seed(Known::Other, b"a"), seed(Known::Other, b"b"));
    }
}
