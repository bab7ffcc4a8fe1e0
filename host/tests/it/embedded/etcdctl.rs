//! The program people use on etcd, on the embedded registry. Run on a real etcd too, which proves
//! the expectations.
//!
//! `etcdctl` is the program named by `WAYMARK_TEST_ETCDCTL`, else the one on the `PATH`; without it
//! the tests are skipped.

use std::{
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use super::fixture::{Registry, on_both, program};

struct Ctl {
    program: PathBuf,
    url: String,
}

impl Ctl {
    fn new(r: &Registry) -> Option<Self> {
        let program = program("WAYMARK_TEST_ETCDCTL", "etcdctl");
        if program.is_none() {
            eprintln!("SKIPPED: neither WAYMARK_TEST_ETCDCTL nor `etcdctl` on the PATH");
        }
        // Without the scheme: etcdctl 3.4 would send it in `:authority`, which our HTTP/2 library
        // does not take.
        let url = r.url.trim_start_matches("http://").to_owned();
        Some(Self { program: program?, url })
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url, "--command-timeout", "10s"]);
        command.args(line.split(' ').map(|word| if word == "''" { "" } else { word }));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn output(&self, line: &str) -> Output {
        self.command(line).stdin(Stdio::null()).output().unwrap()
    }

    /// What a command prints; it must succeed.
    fn run(&self, line: &str) -> String {
        let output = self.output(line);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {line}: {stderr}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// What a command that must fail says.
    fn fail(&self, line: &str) -> String {
        let output = self.output(line);
        assert!(!output.status.success(), "etcdctl {line} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }

    fn run_with_input(&self, line: &str, input: &str) -> String {
        let mut child = self.command(line).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "etcdctl {line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn start(&self, line: &str) -> Running {
        let mut child = self.command(line).stdin(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, lines }
    }
}

struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    fn line(&mut self) -> String {
        self.lines.next().expect("another line").unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn keys_are_put_read_and_deleted(r: Registry) {
    let Some(ctl) = Ctl::new(&r) else { return };
    for key in ["p/a", "p/b", "q"] {
        assert_eq!(ctl.run(&format!("put {key} of-{key}")), "OK");
    }
    assert_eq!(ctl.run("get q"), "q\nof-q");
    assert_eq!(ctl.run("get --prefix p/ --print-value-only"), "of-p/a\nof-p/b");
    assert_eq!(ctl.run("get '' --from-key --keys-only --limit 2"), "p/a\n\np/b");
    assert_eq!(ctl.run("get --prefix p/ --order DESCEND --sort-by KEY --keys-only"), "p/b\n\np/a");
    assert_eq!(ctl.run("get --prefix p/ --limit 1 --write-out fields").lines().last(), Some("\"Count\" : 2"));
    assert_eq!(ctl.run("put q again --prev-kv"), "OK\nq\nof-q");
    assert_eq!(ctl.run(&format!("get q --rev {}", r.revision(3))), "q\nof-q");
    assert_eq!(ctl.run("del --prefix p/ --prev-kv"), "2\np/a\nof-p/a\np/b\nof-p/b");
    assert_eq!(ctl.run("del none"), "0");
    assert_eq!(ctl.run("--user user:password get q --print-value-only"), "again");
}

async fn transactions_take_the_branch_their_comparison_decides(r: Registry) {
    let Some(ctl) = Ctl::new(&r) else { return };
    ctl.run("put a 1");
    let input = "value(\"a\") = \"1\"\n\nput b yes\nget a\n\nput b no\n\n";
    assert_eq!(ctl.run_with_input("txn", input), "SUCCESS\n\nOK\n\na\n1");
    assert_eq!(ctl.run("get b --print-value-only"), "yes");
    let input = "version(\"a\") > \"1\"\n\nput b never\n\nput b no\n\n";
    assert_eq!(ctl.run_with_input("txn", input), "FAILURE\n\nOK");
    assert_eq!(ctl.run("get b --print-value-only"), "no");
}

async fn leases_are_granted_kept_alive_and_revoked(r: Registry) {
    let Some(ctl) = Ctl::new(&r) else { return };
    let granted = ctl.run("lease grant 60");
    let id = granted.split(' ').nth(1).unwrap().to_owned();
    assert_eq!(granted, format!("lease {id} granted with TTL(60s)"));
    ctl.run(&format!("put a 1 --lease={id}"));
    let left = ctl.run(&format!("lease timetolive {id} --keys"));
    assert!(left.starts_with(&format!("lease {id} granted with TTL(60s), remaining(")), "{left}");
    assert!(left.ends_with("attached keys([a])"), "{left}");
    assert_eq!(ctl.run("lease list"), format!("found 1 leases\n{id}"));
    assert_eq!(ctl.run(&format!("lease keep-alive --once {id}")), format!("lease {id} keepalived with TTL(60)"));
    assert_eq!(ctl.run(&format!("lease revoke {id}")), format!("lease {id} revoked"));
    assert_eq!(ctl.run("get a"), "");
    assert!(ctl.fail(&format!("lease revoke {id}")).contains("etcdserver: requested lease not found"));
    assert_eq!(ctl.run(&format!("lease timetolive {id}")), format!("lease {id} already expired"));
}

async fn a_watch_prints_changes_as_they_come(mut r: Registry) {
    let Some(ctl) = Ctl::new(&r) else { return };
    ctl.run("put a/1 old");
    let start = r.revision(1);
    let mut watch = ctl.start(&format!("watch --prefix a/ --rev {start} --prev-kv"));
    assert_eq!([watch.line(), watch.line(), watch.line()], ["PUT", "a/1", "old"]);
    r.client.put("a/1", "new", None).await.unwrap();
    let lines: [String; 5] = std::array::from_fn(|_| watch.line());
    assert_eq!(lines, ["PUT", "a/1", "old", "a/1", "new"]);
    r.client.delete("a/1", None).await.unwrap();
    let lines: [String; 4] = std::array::from_fn(|_| watch.line());
    assert_eq!(lines, ["DELETE", "a/1", "new", "a/1"]);
    ctl.run(&format!("compact {}", r.revision(3)));
    let gone = ctl.fail(&format!("watch a/1 --rev {start}"));
    assert!(gone.contains("canceled by the server"), "{gone}");
}

async fn a_lock_is_held_by_one_at_a_time(r: Registry) {
    let Some(ctl) = Ctl::new(&r) else { return };
    let mut holder = ctl.start("lock the-lock");
    let held = holder.line();
    assert!(held.starts_with("the-lock/"), "{held}");
    let mut waiter = ctl.start("lock the-lock");
    // The first is told to stop and gives the lock back; only then does the second one get it.
    let stopped = Command::new("kill").args(["-INT", &holder.child.id().to_string()]).status().unwrap();
    assert!(stopped.success());
    let next = waiter.line();
    assert!(next.starts_with("the-lock/") && next != held, "{next} after {held}");
}

async fn an_election_has_a_leader_that_others_see(r: Registry) {
    let Some(ctl) = Ctl::new(&r) else { return };
    let mut leader = ctl.start("elect the-election someone");
    let key = leader.line();
    assert!(key.starts_with("the-election/"), "{key}");
    assert_eq!(leader.line(), "someone");
    let mut listener = ctl.start("elect --listen the-election");
    assert_eq!([listener.line(), listener.line()], [key, "someone".into()]);
}

async fn the_endpoint_is_healthy_and_says_who_it_is(r: Registry) {
    let Some(ctl) = Ctl::new(&r) else { return };
    let health = ctl.output("endpoint health");
    let said = format!("{}{}", String::from_utf8_lossy(&health.stdout), String::from_utf8_lossy(&health.stderr));
    assert!(health.status.success() && said.contains("is healthy"), "{said}");
    assert!(ctl.run("endpoint status").starts_with(&ctl.url));
    assert!(ctl.run("endpoint hashkv").starts_with(&ctl.url));
    let members = ctl.run("member list");
    assert!(members.contains("started") && members.contains(&r.url), "{members}");
    ctl.run("put a 1");
    assert_eq!(ctl.run(&format!("compact {}", r.revision(1))), format!("compacted revision {}", r.revision(1)));
    assert!(ctl.fail(&format!("compact {}", r.revision(1))).contains("required revision has been compacted"));
    assert_eq!(ctl.run("alarm list"), "");
    assert!(ctl.run("defrag").starts_with("Finished defragmenting etcd member"));
}

on_both!(
    keys_are_put_read_and_deleted,
    transactions_take_the_branch_their_comparison_decides,
    leases_are_granted_kept_alive_and_revoked,
    a_watch_prints_changes_as_they_come,
    a_lock_is_held_by_one_at_a_time,
    an_election_has_a_leader_that_others_see,
    the_endpoint_is_healthy_and_says_who_it_is,
);
