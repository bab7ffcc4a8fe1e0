//! The differences that are accepted, each with its reason.

/// One difference.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// Versions of etcd, without the patch.
    pub(crate) of: &'static [&'static str],
    /// The rule of the step.
    pub(crate) rule: &'static str,
    /// What only the embedded registry says, with `+` for any revision.
    pub(crate) ours: &'static [&'static str],
    /// What only that etcd says.
    pub(crate) theirs: &'static [&'static str],
    /// Later patches say what we say, so that it is no error when this does not come up.
    pub(crate) fixed_later: bool,
    pub(crate) reason: &'static str,
}

const NO_HEADER: &str = "etcd 3.4 leaves the header out of the answer about alarms; the registry follows 3.5";

const fn alarms(ours: &'static [&'static str], theirs: &'static [&'static str]) -> Accepted {
    let (of, rule): (&[&str], _) = (&["3.4"], "an alarm stops puts until it is cleared");
    Accepted { of, rule, ours, theirs, fixed_later: false, reason: NO_HEADER }
}

const NEGATIVE: &str = "newer patches refuse the start at once, older ones create a watcher that ends as compacted";
const UNBEGUN: &str = "older patches take a watcher whose start is in the future for one that is in step";

/// All of them.
pub(crate) const ACCEPTED: &[Accepted] = &[
    Accepted {
        of: &["3.4", "3.5", "3.6"],
        rule: "a negative start",
        ours: &[
            "stream 2: watcher -1 created canceled because \"etcdserver: mvcc: required revision has been compacted\" @+",
        ],
        theirs: &["stream 2: watcher 0 created @+"],
        fixed_later: true,
        reason: NEGATIVE,
    },
    Accepted {
        of: &["3.4", "3.5", "3.6"],
        rule: "a negative start",
        ours: &[],
        theirs: &["stream 2: watcher 0 canceled compacted+ @0"],
        fixed_later: true,
        reason: NEGATIVE,
    },
    Accepted {
        of: &["3.4", "3.5"],
        rule: "progress is not told while a watcher is not in step",
        ours: &[],
        theirs: &["stream 4: watcher -1 @+"],
        fixed_later: true,
        reason: UNBEGUN,
    },
    Accepted {
        of: &["3.4"],
        rule: "authentication is not enabled",
        ours: &["answered @+"],
        theirs: &["Unimplemented: unknown method AuthStatus for service etcdserverpb.Auth"],
        fixed_later: false,
        reason: "etcd 3.4 does not have this call",
    },
    Accepted {
        of: &["3.6"],
        rule: "the puts of a txn are refused before its reads",
        ours: &["InvalidArgument: etcdserver: key not found"],
        theirs: &["OutOfRange: etcdserver: mvcc: required revision is a future revision"],
        fixed_later: false,
        reason: "etcd 3.6 looks at the operations of a txn in their order; the registry follows 3.5",
    },
    alarms(&["alarms [] @+"], &["alarms [] no header"]),
    alarms(&["alarms [\"1 of 0\"] @+"], &["alarms [\"1 of 0\"] no header"]),
];
