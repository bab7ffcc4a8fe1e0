//! The differences that are accepted, each with its reason.

/// One difference.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// Versions of etcd, without the patch.
    pub(crate) of: &'static [&'static str],
    /// The rule of the step.
    pub(crate) rule: &'static str,
    /// What only the embedded registry says.
    pub(crate) ours: &'static [&'static str],
    /// What only that etcd says.
    pub(crate) theirs: &'static [&'static str],
    pub(crate) reason: &'static str,
}

/// All of them.
pub(crate) const ACCEPTED: &[Accepted] = &[];
