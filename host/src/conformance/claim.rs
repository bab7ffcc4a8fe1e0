//! What a policy may claim beyond the interface, and what the bundled ones do claim.
//!
//! The interface has no field for it, so a claim comes from whoever runs the kit: from this table
//! for what is bundled, from `--claim` for a user's own.

use std::{fmt, str::FromStr};

use serde::Serialize;

/// A promise that turns an observation into a requirement, or what is asked of everybody into an
/// observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Claim {
    /// Endpoints of one zone get shares in proportion to their weights.
    Weights,
    /// Requests stay in the node's zone while it carries its part, and leave it when it is empty.
    Zone,
    /// Equal keys go to the same endpoint, and hardly any moves when another endpoint comes or
    /// goes.
    Stable,
    /// It may decline every request that the kit makes up, because it serves only some that it
    /// knows by a header. Takes a requirement away.
    Declines,
}

impl Claim {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Weights, Self::Zone, Self::Stable, Self::Declines];

    /// The claim in a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::Zone => "zone",
            Self::Stable => "stable",
            Self::Declines => "declines",
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Claim {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|claim| claim.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no claim; there are: {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// The claims of the bundled policies. Each has a line here, an empty one if it claims nothing: a
/// test holds them together.
const BUNDLED: &[(&str, &[Claim])] = &[
    ("round_robin", &[]),
    ("weighted", &[Claim::Weights]),
    ("zone_aware", &[Claim::Weights]),
    ("least_request", &[]),
    ("pick_first", &[]),
    ("random", &[]),
    ("weighted_random", &[Claim::Weights]),
    ("peak_ewma", &[]),
    ("ring_hash", &[Claim::Stable]),
    ("maglev", &[Claim::Weights, Claim::Stable]),
    ("weighted_least_request", &[]),
    ("subset", &[]),
    ("canary_by_header", &[]),
    ("sticky", &[Claim::Stable]),
    ("priority", &[]),
    ("reported_load", &[]),
];

/// What a bundled policy claims; none when there is no bundled policy of this name.
pub fn bundled_claims(name: &str) -> Option<&'static [Claim]> {
    BUNDLED.iter().find(|(bundled, _)| *bundled == name).map(|(_, claims)| *claims)
}
