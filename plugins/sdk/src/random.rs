//! Randomness for plugins, which have no source of their own: it comes from the host with each
//! pick, or from a text that stays the same, such as the service's name.

/// A source of random numbers that always gives the same ones for the same seed: SplitMix64
/// (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014). Good for
/// spreading load, of no use for secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random {
    state: u64,
}

impl Random {
    /// From the two random numbers of a pick's context, for policies that need more than two.
    pub fn from_context(random: (u32, u32)) -> Self {
        Self { state: u64::from(random.0) << 32 | u64::from(random.1) }
    }

    /// From a text. Break ties with the service's or the node's name, so that not every one begins
    /// with the same endpoint.
    pub fn from_text(seed: &str) -> Self {
        Self { state: hash_text(seed, 0) }
    }

    /// The next number.
    pub fn next_u32(&mut self) -> u32 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        (mix(self.state) >> 32) as u32
    }

    /// A number below `n`; 0 when `n` is 0.
    pub fn below(&mut self, n: u32) -> u32 {
        Self::scale(self.next_u32(), n)
    }

    /// A number below `n` from a uniform random number, without a division (Lemire, "Fast random
    /// integer generation in an interval", 2019). The bias is at most `n` in 2^32.
    pub fn scale(random: u32, n: u32) -> u32 {
        ((u64::from(random) * u64::from(n)) >> 32) as u32
    }

    /// Put a list into random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            let other = self.below(last as u32 + 1) as usize;
            list.swap(last, other);
        }
    }
}

/// A 64-bit hash of a text: FNV-1a (Fowler, Noll and Vo), then SplitMix64's finisher, because FNV
/// alone leaves the high bits of similar short texts similar. Different seeds give independent
/// hashes.
pub fn hash_text(text: &str, seed: u64) -> u64 {
    let hash = text
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325 ^ seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
    mix(hash)
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prelude::*;

    #[test]
    fn it_gives_the_numbers_that_the_paper_s_reference_code_gives() {
        let mut random = Random { state: 1_234_567 };
        let numbers: Vec<u32> = (0..3).map(|_| random.next_u32()).collect();
        assert_eq!(
            numbers,
            [6_457_827_717_110_365_317u64, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
                .map(|n| (n >> 32) as u32)
        );
    }

    #[test]
    fn numbers_below_n_are_below_n_and_even() {
        let mut random = Random::from_text("greeter");
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[random.below(7) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
        assert_eq!(random.below(0), 0);
        assert_eq!(Random::scale(u32::MAX, 7), 6);
    }

    #[test]
    fn a_shuffle_keeps_everything() {
        let mut list: Vec<u32> = (0..100).collect();
        Random::from_text("x").shuffle(&mut list);
        assert_ne!(list, (0..100).collect::<Vec<_>>());
        list.sort_unstable();
        assert_eq!(list, (0..100).collect::<Vec<_>>());
    }
}
