//! XXH64, the hash function of Envoy's and gRPC's consistent hashing, by the crate `xxhash-rust`.

/// The XXH64 hash of these bytes. Where a text names an endpoint on a ring or in a table, use this
/// one, so that the ring is the one that other products make of the same names.
pub fn xxh64(bytes: &[u8], seed: u64) -> u64 {
    xxhash_rust::xxh64::xxh64(bytes, seed)
}

/// What the tests of hashing algorithms compare with; `vectors/make.py` says where it comes from.
#[cfg(test)]
pub(crate) mod vectors {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use crate::prelude::*;

    use serde_json::Value;

    pub(crate) fn of(algorithm: &str) -> Vec<Value> {
        let all: Value = serde_json::from_str(include_str!("../vectors/vectors.json")).unwrap();
        all[algorithm].as_array().unwrap().clone()
    }

    /// Names and weights.
    pub(crate) fn endpoints(vector: &Value) -> Vec<(String, u32)> {
        let pairs = vector["endpoints"].as_array().unwrap().iter();
        pairs.map(|pair| (pair[0].as_str().unwrap().to_owned(), number(&pair[1]))).collect()
    }

    pub(crate) fn numbers(list: &Value) -> Vec<u32> {
        list.as_array().unwrap().iter().map(number).collect()
    }

    pub(crate) fn number(value: &Value) -> u32 {
        u32::try_from(value.as_u64().unwrap()).unwrap()
    }

    /// 64 bits in hexadecimal: JSON's numbers hold only 53.
    pub(crate) fn hash(value: &Value) -> u64 {
        u64::from_str_radix(value.as_str().unwrap(), 16).unwrap()
    }

    #[test]
    fn xxh64_is_the_published_function() {
        for vector in of("xxh64") {
            let (text, seed) = (vector[0].as_str().unwrap(), vector[1].as_u64().unwrap());
            assert_eq!(super::xxh64(text.as_bytes(), seed), hash(&vector[2]), "{vector}");
        }
    }
}
