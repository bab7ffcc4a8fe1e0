//! Writes a bbolt file (`go.etcd.io/bbolt`), which is what an etcd keeps its data in: only whole,
//! and only once.
//!
//! ```text
//!   page 0, 1   meta: where the root is, how many pages there are, a checksum
//!   page 2      the list of free pages, which is empty
//!   page 3..    of each bucket its leaves, then the branches above them; at last the root, a leaf that names the buckets
//! ```
//!
//! A page is 4 KiB, or several where one entry needs more. All numbers are little-endian.

/// What a file is made of at least.
const PAGE: usize = 4096;
const PAGE_HEADER: usize = 16;
/// An element of a page, beside its key and value.
const ELEMENT: usize = 16;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
const FREE_LIST: u16 = 0x10;
/// The mark of an entry that is a bucket.
const BUCKET: u32 = 0x01;

/// Keys with their values, sorted by key.
pub(super) type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// A file with these buckets, which are sorted by name.
pub(super) fn file(buckets: Vec<(&[u8], Entries)>) -> Vec<u8> {
    // Both metas and the list of free pages come when it is known where the root is.
    let mut pages = vec![0; 3 * PAGE];
    let roots = buckets.into_iter().map(|(name, entries)| {
        let root = tree(&mut pages, &entries);
        (name.to_vec(), bucket(root))
    });
    let roots: Entries = roots.collect();
    let root = leaf(&mut pages, &roots, BUCKET);
    let count = (pages.len() / PAGE) as u64;
    page_header(&mut pages[2 * PAGE..], 2, FREE_LIST, 0, 0);
    for id in 0..2 {
        let page = &mut pages[id * PAGE..(id + 1) * PAGE];
        page_header(page, id as u64, META, 0, 0);
        let mut meta = Vec::new();
        for number in [MAGIC, VERSION, PAGE as u32, 0] {
            meta.extend(number.to_le_bytes());
        }
        meta.extend(bucket(root));
        // The list of free pages, the end of the file, and which of the two metas is the newer one.
        for number in [2, count, id as u64] {
            meta.extend(number.to_le_bytes());
        }
        meta.extend(fnv(&meta).to_le_bytes());
        page[PAGE_HEADER..PAGE_HEADER + meta.len()].copy_from_slice(&meta);
    }
    pages
}

/// Where a bucket begins, and its sequence, which nobody uses.
fn bucket(root: u64) -> Vec<u8> {
    [root.to_le_bytes(), [0; 8]].concat()
}

/// Writes the tree of one bucket and answers where its root is.
fn tree(pages: &mut Vec<u8>, entries: &[(Vec<u8>, Vec<u8>)]) -> u64 {
    let mut level: Vec<(Vec<u8>, u64)> = Vec::new();
    for chunk in split(entries, |(key, value)| key.len() + value.len()) {
        let first = chunk.first().map_or_else(Vec::new, |(key, _)| key.clone());
        level.push((first, leaf(pages, chunk, 0)));
    }
    while level.len() > 1 {
        let above = split(&level, |(key, _)| key.len());
        level = above.into_iter().map(|chunk| (chunk[0].0.clone(), branch(pages, chunk))).collect();
    }
    level.pop().map_or(0, |(_, root)| root)
}

/// Cuts a level into what fits a page each: at least one entry, and at least two where there are
/// branches above, so that a tree ends. There is one chunk of nothing where there is nothing.
fn split<T>(entries: &[T], size: impl Fn(&T) -> usize) -> Vec<&[T]> {
    const LEAST: usize = 2;
    let (mut chunks, mut begin, mut used) = (Vec::new(), 0, PAGE_HEADER);
    for (at, entry) in entries.iter().enumerate() {
        let more = ELEMENT + size(entry);
        if used + more > PAGE && at - begin >= LEAST {
            chunks.push(&entries[begin..at]);
            (begin, used) = (at, PAGE_HEADER);
        }
        used += more;
    }
    chunks.push(&entries[begin..]);
    chunks
}

fn leaf(pages: &mut Vec<u8>, entries: &[(Vec<u8>, Vec<u8>)], flags: u32) -> u64 {
    let mut data = PAGE_HEADER + ELEMENT * entries.len();
    let (mut elements, mut texts) = (Vec::new(), Vec::new());
    for (nth, (key, value)) in entries.iter().enumerate() {
        // From the element itself on.
        let position = data - PAGE_HEADER - ELEMENT * nth;
        for number in [flags, position as u32, key.len() as u32, value.len() as u32] {
            elements.extend(number.to_le_bytes());
        }
        texts.extend_from_slice(key);
        texts.extend_from_slice(value);
        data += key.len() + value.len();
    }
    append(pages, LEAF, entries.len(), &elements, &texts)
}

fn branch(pages: &mut Vec<u8>, children: &[(Vec<u8>, u64)]) -> u64 {
    let mut data = PAGE_HEADER + ELEMENT * children.len();
    let (mut elements, mut texts) = (Vec::new(), Vec::new());
    for (nth, (key, page)) in children.iter().enumerate() {
        let position = data - PAGE_HEADER - ELEMENT * nth;
        for number in [position as u32, key.len() as u32] {
            elements.extend(number.to_le_bytes());
        }
        elements.extend(page.to_le_bytes());
        texts.extend_from_slice(key);
        data += key.len();
    }
    append(pages, BRANCH, children.len(), &elements, &texts)
}

fn append(pages: &mut Vec<u8>, kind: u16, count: usize, elements: &[u8], texts: &[u8]) -> u64 {
    let at = pages.len();
    let id = (at / PAGE) as u64;
    let whole = (PAGE_HEADER + elements.len() + texts.len()).div_ceil(PAGE);
    let mut header = [0; PAGE_HEADER];
    page_header(&mut header, id, kind, count as u16, whole as u32 - 1);
    pages.extend(header);
    pages.extend_from_slice(elements);
    pages.extend_from_slice(texts);
    pages.resize(at + whole * PAGE, 0);
    id
}

fn page_header(page: &mut [u8], id: u64, kind: u16, count: u16, overflow: u32) {
    page[..8].copy_from_slice(&id.to_le_bytes());
    page[8..10].copy_from_slice(&kind.to_le_bytes());
    page[10..12].copy_from_slice(&count.to_le_bytes());
    page[12..16].copy_from_slice(&overflow.to_le_bytes());
}

/// FNV-1a of 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: &[u8], at: usize, size: usize) -> usize {
        bytes[at..at + size].iter().rev().fold(0, |number, byte| (number << 8) | usize::from(*byte))
    }

    /// All entries below a page, in order, as a reader finds them.
    fn read(file: &[u8], page: usize) -> Entries {
        let at = page * PAGE;
        assert_eq!(number(file, at, 8), page, "a page names itself");
        let (kind, count) = (number(file, at + 8, 2), number(file, at + 10, 2));
        let mut found = Vec::new();
        for nth in 0..count {
            let element = at + PAGE_HEADER + ELEMENT * nth;
            if kind == usize::from(BRANCH) {
                let key = element + number(file, element, 4);
                let below = read(file, number(file, element + 8, 8));
                assert_eq!(
                    below[0].0,
                    file[key..key + number(file, element + 4, 4)],
                    "a branch has its child's first key"
                );
                found.extend(below);
            } else {
                let (key, size) = (element + number(file, element + 4, 4), number(file, element + 8, 4));
                let value = key + size;
                found.push((file[key..value].to_vec(), file[value..value + number(file, element + 12, 4)].to_vec()));
            }
        }
        found
    }

    #[test]
    fn a_tree_of_any_size_is_found_whole() {
        for (n, size) in [(0, 0), (1, 10), (1, 5_000), (50, 100), (20_000, 9), (30, 9_000)] {
            let entries: Entries =
                (0..n).map(|n: u32| (n.to_be_bytes().to_vec(), vec![n.to_le_bytes()[0]; size])).collect();
            let file = file(vec![(b"a", Vec::new()), (b"key", entries.clone())]);
            assert_eq!(file.len() % PAGE, 0);
            let meta = PAGE + PAGE_HEADER;
            assert_eq!(number(&file, meta + 40, 8), file.len() / PAGE);
            assert_eq!(number(&file, meta + 56, 8) as u64, fnv(&file[meta..meta + 56]));
            let root = read(&file, number(&file, meta + 16, 8));
            assert_eq!(root.iter().map(|(name, _)| &name[..]).collect::<Vec<_>>(), [&b"a"[..], b"key"]);
            assert_eq!(read(&file, number(&root[0].1, 0, 8)), []);
            assert!(read(&file, number(&root[1].1, 0, 8)) == entries, "{n} of {size} bytes");
        }
    }
}
