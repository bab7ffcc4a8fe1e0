//! How many nodes a call has passed through, so that one that goes in a circle ends.
//!
//! An endpoint may be a node, of this kind or behind others, and a route there may lead back here.
//! Nothing in such a call tells that it was here before, and it would go round until its deadline,
//! each time as one more call; without a deadline for ever. So every node writes into the call how
//! many it has passed through, and refuses one that has passed through too many. A number that a
//! client made up shortens its own call's way only.
//!
//! HTTP's `via` (RFC 9110, section 7.6.3) says the same by a list of names. It would need a name
//! for each node that no other has, an allocation and a comparison of text for each call, and
//! intermediaries may cut it short.

use http::{HeaderMap, HeaderName, HeaderValue};

/// How many nodes a call has passed through, on its way to an instance.
pub const WAYMARK_HOPS: HeaderName = HeaderName::from_static("waymark-hops");

/// The most nodes that a call passes through. Meshes have two on a call's way and gateways in front
/// of them a third; the rest is for servers that hand on the headers that they were sent.
pub(crate) const MOST: usize = 16;

/// What is written after so many: a value that is made once costs a call no allocation.
static PASSED: [HeaderValue; MOST] = {
    const fn of(text: &'static str) -> HeaderValue {
        HeaderValue::from_static(text)
    }
    [
        of("1"),
        of("2"),
        of("3"),
        of("4"),
        of("5"),
        of("6"),
        of("7"),
        of("8"),
        of("9"),
        of("10"),
        of("11"),
        of("12"),
        of("13"),
        of("14"),
        of("15"),
        of("16"),
    ]
};

/// Counts this node. How many there were, if these are as many as may be.
pub(crate) fn pass(headers: &mut HeaderMap) -> Result<(), usize> {
    // What is no number was written by no node.
    let passed = headers
        .get(WAYMARK_HOPS)
        .map_or(0, |value| value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(0));
    let next = PASSED.get(passed).ok_or(passed)?;
    headers.insert(WAYMARK_HOPS, next.clone());
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_call_passes_through_so_many_nodes() {
        let mut headers = HeaderMap::new();
        for n in 1..=MOST {
            pass(&mut headers).unwrap();
            assert_eq!(headers[WAYMARK_HOPS], n.to_string());
        }
        assert_eq!(pass(&mut headers), Err(MOST));
    }

    #[test]
    fn what_a_client_made_up_is_its_own_loss_and_is_written_over() {
        let after = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(WAYMARK_HOPS, HeaderValue::from_static(value));
            }
            pass(&mut headers).map(|()| {
                let values: Vec<_> =
                    headers.get_all(WAYMARK_HOPS).iter().map(|value| value.to_str().unwrap().to_owned()).collect();
                values.join(",")
            })
        };
        assert_eq!(after(&["-1"]).unwrap(), "1");
        assert_eq!(after(&["many"]).unwrap(), "1");
        assert_eq!(after(&["3", "many"]).unwrap(), "4");
        assert_eq!(after(&["99999999"]), Err(99_999_999));
        assert_eq!(after(&["99999999999999999999999999"]).unwrap(), "1");
    }
}
