//! A snapshot of the embedded registry is one of etcd's: it is restored by etcd's own program, and
//! an etcd is started from it.

use std::process::Command;

use etcd_client::{GetOptions, LeaseTimeToLiveOptions, PutOptions};
use sha2::{Digest as _, Sha256};

use super::fixture::{Registry, on_both, program};

/// The file that is sent, without the digest that comes after it.
async fn save(r: &mut Registry) -> Vec<u8> {
    let mut stream = r.client.snapshot().await.unwrap();
    let (mut file, mut left) = (Vec::new(), None);
    while let Some(message) = stream.message().await.unwrap() {
        file.extend_from_slice(message.blob());
        if let Some(left) = left.replace(message.remaining_bytes()) {
            assert!(message.remaining_bytes() <= left);
        }
    }
    assert_eq!(left, Some(0));
    let digest = file.split_off(file.len() - 32);
    assert_eq!(Sha256::digest(&file)[..], digest[..]);
    file
}

async fn a_snapshot_is_sent_whole_with_its_digest(mut r: Registry) {
    r.client.put("a", vec![b'x'; 100_000], None).await.unwrap();
    let file = save(&mut r).await;
    assert!(file.len() > 100_000 && file.len().is_multiple_of(4096), "{} bytes", file.len());
}

on_both!(a_snapshot_is_sent_whole_with_its_digest);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_starts_from_it_with_all_keys_versions_and_leases() {
    // Of one version: what an etcdctl 3.4 restores, an etcd 3.6 does not take.
    let etcd = program("WAYMARK_TEST_RESTORED_ETCD", "etcd");
    let etcdctl = program("WAYMARK_TEST_RESTORING_ETCDCTL", "etcdctl");
    let (Some(etcd), Some(etcdctl)) = (etcd, etcdctl) else {
        eprintln!("SKIPPED a restored snapshot: there are no `etcd` and `etcdctl` on the PATH");
        return;
    };
    let mut r = Registry::embedded().await;
    let lease = r.client.lease_grant(600, None).await.unwrap().id();
    for n in 0..500 {
        let value = "v".repeat(n % 700);
        r.client.put(format!("key/{n:05}"), value, Some(PutOptions::new().with_lease(lease))).await.unwrap();
    }
    r.client.put("large", vec![b'l'; 900_000], None).await.unwrap();
    r.client.put("gone", "x", None).await.unwrap();
    let before = r.client.put("key/00007", "old", None).await.unwrap().header().unwrap().revision();
    r.client.put("key/00007", "new", None).await.unwrap();
    r.client.delete("gone", None).await.unwrap();

    let folder = tempfile::tempdir().unwrap();
    let (saved, data) = (folder.path().join("snapshot.db"), folder.path().join("data"));
    let mut stream = r.client.snapshot().await.unwrap();
    let mut file = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        file.extend_from_slice(message.blob());
    }
    std::fs::write(&saved, file).unwrap();
    let mut restore = Command::new(etcdctl);
    restore.env("ETCDCTL_API", "3").args(["snapshot", "restore"]).arg(&saved).arg("--data-dir").arg(&data);
    let output = restore.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let mut it = Registry::etcd_from(&etcd, &data).await;
    let everything = || Some(GetOptions::new().with_all_keys());
    let (theirs, ours) =
        (it.client.get("", everything()).await.unwrap(), r.client.get("", everything()).await.unwrap());
    let show = |kvs: &[etcd_client::KeyValue]| -> Vec<_> {
        kvs.iter()
            .map(|kv| {
                (
                    kv.key().to_vec(),
                    kv.value().to_vec(),
                    kv.create_revision(),
                    kv.mod_revision(),
                    kv.version(),
                    kv.lease(),
                )
            })
            .collect()
    };
    assert_eq!(ours.kvs().len(), 501);
    assert!(show(theirs.kvs()) == show(ours.kvs()), "{} and {} keys", theirs.kvs().len(), ours.kvs().len());
    let then = it.client.get("key/00007", Some(GetOptions::new().with_revision(before))).await.unwrap();
    assert_eq!(then.kvs()[0].value(), b"old");
    let options = LeaseTimeToLiveOptions::new().with_keys();
    let held = it.client.lease_time_to_live(lease, Some(options)).await.unwrap();
    assert_eq!((held.granted_ttl(), held.keys().len()), (600, 499), "but for the one that was written without it");
    it.client.put("after", "", None).await.unwrap();
}
