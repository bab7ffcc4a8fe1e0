//! Shows that the probe bites: each fault below is planted in front of an embedded registry
//! (`faulty`), and the script must be answered differently, at the rule that the fault breaks.

use futures::{StreamExt, stream};

use super::{
    PATIENCE,
    compare::differences,
    faulty::Proxy,
    fixture::Registry,
    like_etcd, of_embedded,
    run::{Said, run},
    script::{Script, Step},
};

/// What is wrong with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing: shows that the proxy itself changes no line.
    None,
    NoOpDeleteRaisesRevision,
    CountHonoursLimit,
    EndBeforeKeyIsTheKey,
    SortNeedsAnOrder,
    CompactedReadIsInvalidArgument,
    VersionGoesOnAfterDelete,
    TxnReadsMissEarlierWrites,
    ValueCompareOfMissingKeyHolds,
    ShortTtlIsKept,
    MissingLeaseHasNoTimeToLive,
    MissingLeaseEndsKeepAlive,
    PutKeepsTheLease,
    LeaseEndsInSeveralRevisions,
    TombstoneOfLeaseHasNoPrevious,
    TombstoneHasAVersion,
    ReplaySplitsATxn,
    CreatedShowsAnOlderRevision,
    CompactedWatchNamesNoRevision,
    CompactedWatchHasAHeaderRevision,
    ProgressBeforeAllAreInStep,
    HalfCloseEndsTheStream,
    FragmentsUnasked,
}

/// Each fault, and the rule that shows it.
const FAULTS: [(Fault, &str); 22] = [
    (Fault::NoOpDeleteRaisesRevision, "a delete of nothing does not raise the revision"),
    (Fault::CountHonoursLimit, "count ignores the limit"),
    (Fault::EndBeforeKeyIsTheKey, "range_end at or before the key is an empty range"),
    (Fault::SortNeedsAnOrder, "a sort target without an order means ascending"),
    (Fault::CompactedReadIsInvalidArgument, "a read below the compaction is refused"),
    (Fault::VersionGoesOnAfterDelete, "a version goes back to 1 after a delete"),
    (Fault::TxnReadsMissEarlierWrites, "reads in a txn see its earlier writes"),
    (Fault::ValueCompareOfMissingKeyHolds, "a VALUE compare on a missing key is false"),
    (Fault::ShortTtlIsKept, "a TTL under 2 becomes 2, and one over 9e9 is refused"),
    (Fault::MissingLeaseHasNoTimeToLive, "TimeToLive of a missing lease answers -1 without an error"),
    (Fault::MissingLeaseEndsKeepAlive, "keep-alive answers a ttl of 0 for a missing lease"),
    (Fault::PutKeepsTheLease, "a put without a lease detaches the key"),
    (Fault::LeaseEndsInSeveralRevisions, "an expired lease takes its keys in one revision and one message"),
    (Fault::TombstoneOfLeaseHasNoPrevious, "an expired lease takes its keys in one revision and one message"),
    (Fault::TombstoneHasAVersion, "a watcher is told what is in its range, one message a revision"),
    (Fault::ReplaySplitsATxn, "a start in the past is replayed inclusively, a txn whole"),
    (Fault::CreatedShowsAnOlderRevision, "ids start at 0 on each stream and are counted up"),
    (
        Fault::CompactedWatchNamesNoRevision,
        "a compacted start is created first and then canceled with the compact revision and no reason",
    ),
    (
        Fault::CompactedWatchHasAHeaderRevision,
        "a compacted start is created first and then canceled with the compact revision and no reason",
    ),
    (Fault::ProgressBeforeAllAreInStep, "progress is not told while a watcher is not in step"),
    (Fault::HalfCloseEndsTheStream, "a client's half-close does not end the stream"),
    (Fault::FragmentsUnasked, "a message over 1.5 MiB comes in fragments to those who ask, and whole to others"),
];

/// Faults that are tried at once: most of the time of a run is waiting for a lease to end.
const AT_ONCE: usize = 4;

async fn with(fault: Fault, steps: &[Step]) -> Result<Vec<Said>, String> {
    let registry = Registry::embedded_with(like_etcd()).await;
    let proxy = Proxy::start(&registry.url, fault).await?;
    run(&proxy.url, steps, PATIENCE, |_, _| {}).await
}

/// The check.
pub(crate) async fn all_are_caught() -> Result<(), String> {
    // The edges alone have to do it: each of the faults breaks a rule that has one.
    let mut script = Script::default();
    super::edges::add(&mut script);
    let steps = &script.steps;
    let right = &of_embedded(steps, like_etcd()).await?;
    let through = with(Fault::None, steps).await?;
    if let Some(difference) = differences(right, &through).first() {
        return Err(format!("without a fault, the proxy is seen: {difference:?}"));
    }
    let tried = FAULTS.map(|(fault, rule)| {
        Box::pin(async move {
            let found = differences(right, &with(fault, steps).await?);
            if found.iter().any(|difference| difference.rule == rule) {
                println!("probe:   caught {fault:?} in {} steps, among them: {rule}", found.len());
                return Ok(());
            }
            let rules: Vec<_> = found.iter().map(|difference| difference.rule.as_str()).collect();
            Err(format!("{fault:?} was not caught at \"{rule}\", only at {rules:?}"))
        })
    });
    let results: Vec<Result<(), String>> = stream::iter(tried).buffer_unordered(AT_ONCE).collect().await;
    let missed: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    if missed.is_empty() { Ok(()) } else { Err(missed.join("\n")) }
}
