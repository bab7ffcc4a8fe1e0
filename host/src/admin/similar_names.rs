//! Which names are most like another, at a bounded cost: anybody may ask for any name, as often as
//! they like.

/// How many names are compared letter by letter: those whose beginning and end are most like the
/// other's.
const COMPARED: usize = 32;

/// How many letters of each are compared. What differs past them is no slip of the pen.
const LETTERS: usize = 64;

/// Of these names the ones most like `name`, the most similar first.
pub(super) fn similar_names<'a>(name: &str, names: impl Iterator<Item = &'a str>, most: usize) -> Vec<&'a str> {
    let mut names: Vec<_> = names.map(|other| (unlike(name, other), other)).collect();
    if names.len() > COMPARED {
        names.select_nth_unstable(COMPARED);
        names.truncate(COMPARED);
    }
    names.sort_by_cached_key(|(unlike, other)| {
        (strsim::damerau_levenshtein(begin(other), begin(name)), *unlike, *other)
    });
    names.into_iter().map(|(_, other)| other).take(most).collect()
}

/// How much of them is neither a common beginning nor a common end.
fn unlike(a: &str, b: &str) -> usize {
    let same = |(a, b): &(u8, u8)| a == b;
    let begin = a.bytes().zip(b.bytes()).take_while(same).count();
    let left = a.len().min(b.len()) - begin;
    let end = a.bytes().rev().zip(b.bytes().rev()).take(left).take_while(same).count();
    a.len().max(b.len()) - begin - end
}

fn begin(name: &str) -> &str {
    name.char_indices().nth(LETTERS).map_or(name, |(at, _)| &name[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_pen_are_found_among_many_wherever_they_are() {
        let mut names: Vec<_> = (0..3000).map(|n| format!("team{}/service-number-{n}", n % 17)).collect();
        names.push("ayang/server1".into());
        names.extend((0..100).map(|n| format!("{}{n}", "long".repeat(120))));
        for slip in ["ayang/server2", "aynag/server1", "yang/server1", "Ayang/server1", "ayang/serve1", "ayang/sever1"]
        {
            let found = similar_names(slip, names.iter().map(String::as_str), 5);
            assert_eq!((found.len(), found[0]), (5, "ayang/server1"), "{slip}");
        }
        assert!(similar_names("a", std::iter::empty(), 5).is_empty());
    }

    #[test]
    fn no_more_letters_are_compared_than_that() {
        let long = "\u{e9}".repeat(512);
        assert_eq!(begin(&long).chars().count(), LETTERS);
        assert_eq!(
            (unlike("abc", "abc"), unlike("abc", "abbc"), unlike("", "abc"), unlike("abc", "xyz")),
            (0, 1, 3, 3)
        );
        let names: Vec<_> = (0..3000).map(|n| format!("{long}{n}")).collect();
        assert_eq!(similar_names(&long, names.iter().map(String::as_str), 5).len(), 5);
    }
}
