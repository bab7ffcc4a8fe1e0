//! Components that ask for WASI: what each gets without a grant, and with which.
use waymark_core::{
    model::ServiceName,
    policy::{Policy as _, Scope},
};
use waymark_testing::logged;

use super::{engine, guest::said};
use crate::{Access, Grant, Inspection, Kind, Limits, LoadError, MemoryLimits, Plugin};

/// As much of WASI's interfaces as these guests use, in the words of its 0.2.3 release.
const WASI: &str = r"
package test:guest;

world guest {
    import wasi:cli/environment@0.2.3;
    import wasi:cli/exit@0.2.3;
    import wasi:cli/stdout@0.2.3;
    import wasi:cli/stderr@0.2.3;
    import wasi:io/poll@0.2.3;
    import wasi:io/streams@0.2.3;
    import wasi:filesystem/preopens@0.2.3;
    import wasi:sockets/tcp-create-socket@0.2.3;
    import wasi:clocks/monotonic-clock@0.2.3;
    import wasi:clocks/wall-clock@0.2.3;
    import wasi:random/random@0.2.3;
    import wasi:http/client@0.2.3;
    export waymark:plugin/balancer@0.1.0;
}

package wasi:io@0.2.3 {
    interface poll {
        resource pollable { ready: func() -> bool; block: func(); }
        poll: func(in: list<borrow<pollable>>) -> list<u32>;
    }
    interface error { resource error; }
    interface streams {
        use error.{error};
        variant stream-error { last-operation-failed(error), closed }
        resource input-stream { read: func(len: u64) -> result<list<u8>, stream-error>; }
        resource output-stream {
            check-write: func() -> result<u64, stream-error>;
            blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
        }
    }
}

package wasi:cli@0.2.3 {
    interface environment {
        get-environment: func() -> list<tuple<string, string>>;
        get-arguments: func() -> list<string>;
        initial-cwd: func() -> option<string>;
    }
    interface exit { exit: func(status: result); }
    interface stdout { use wasi:io/streams@0.2.3.{output-stream}; get-stdout: func() -> output-stream; }
    interface stderr { use wasi:io/streams@0.2.3.{output-stream}; get-stderr: func() -> output-stream; }
}

package wasi:filesystem@0.2.3 {
    interface types { resource descriptor; }
    interface preopens { use types.{descriptor}; get-directories: func() -> list<tuple<descriptor, string>>; }
}

package wasi:sockets@0.2.3 {
    interface network { enum error-code { unknown, access-denied, not-supported } }
    interface tcp { resource tcp-socket; }
    interface tcp-create-socket {
        use network.{error-code};
        use tcp.{tcp-socket};
        enum family { ipv4, ipv6 }
        create-tcp-socket: func(family: family) -> result<tcp-socket, error-code>;
    }
}

package wasi:clocks@0.2.3 {
    interface monotonic-clock {
        use wasi:io/poll@0.2.3.{pollable};
        now: func() -> u64;
        subscribe-duration: func(when: u64) -> pollable;
    }
    interface wall-clock { record datetime { seconds: u64, nanoseconds: u32 } now: func() -> datetime; }
}

package wasi:random@0.2.3 {
    interface random { get-random-bytes: func(len: u64) -> list<u8>; get-random-u64: func() -> u64; }
}

package wasi:http@0.2.3 {
    interface client { fetch: func(); }
}
";

fn load(bytes: &[u8], allow: &str) -> Result<Plugin, LoadError> {
    engine().load_allowing(bytes, "probe.wasm", allow.parse().unwrap())
}

fn guest(imports: &str, probe: &str) -> Vec<u8> {
    super::guest::guest(WASI, imports, probe)
}

fn run(bytes: &[u8], allow: &str) -> String {
    said(load(bytes, allow).unwrap())
}

const ENVIRONMENT: &str = r#"
    (import "wasi:cli/environment@0.2.3" "get-environment" (func $env (param i32)))
    (import "wasi:cli/environment@0.2.3" "get-arguments" (func $args (param i32)))
    (import "wasi:cli/environment@0.2.3" "initial-cwd" (func $cwd (param i32)))"#;

const STDIO: &str = r#"
    (import "wasi:cli/stdout@0.2.3" "get-stdout" (func $out (result i32)))
    (import "wasi:cli/stderr@0.2.3" "get-stderr" (func $err (result i32)))
    (import "wasi:io/streams@0.2.3" "[method]output-stream.check-write" (func $room (param i32 i32)))
    (import "wasi:io/streams@0.2.3" "[method]output-stream.blocking-write-and-flush"
        (func $write (param i32 i32 i32 i32)))
    (import "wasi:io/streams@0.2.3" "[resource-drop]output-stream" (func $drop (param i32)))"#;

const CLOCKS: &str = r#"
    (import "wasi:clocks/monotonic-clock@0.2.3" "now" (func $now (result i64)))
    (import "wasi:clocks/wall-clock@0.2.3" "now" (func $wall (param i32)))"#;

const RANDOM: &str = r#"
    (import "wasi:random/random@0.2.3" "get-random-u64" (func $number (result i64)))
    (import "wasi:random/random@0.2.3" "get-random-bytes" (func $bytes (param i64 i32)))"#;

#[test]
fn wasi_is_refused_unless_allowed_and_the_message_says_how_to_allow_it() {
    let bytes = guest(ENVIRONMENT, "i32.const 1");
    let error = load(&bytes, "").map(drop).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, LoadError::NotGranted { .. }), "{text}");
    for part in ["wasi:cli/environment@0.2.3", "`--allow wasi`", "allow = [\"wasi\"]"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(run(&bytes, "wasi").ends_with("answer 1"));
}

#[test]
fn what_is_no_part_of_it_is_refused_whatever_is_allowed() {
    let bytes = guest(r#"(import "wasi:http/client@0.2.3" "fetch" (func))"#, "i32.const 1");
    let text = load(&bytes, "wasi,clocks,random").map(drop).unwrap_err().to_string();
    assert!(text.contains("wasi:http/client@0.2.3") && !text.contains("--allow"), "{text}");
}

#[test]
fn there_is_no_environment_no_argument_no_directory_and_no_working_directory() {
    let imports = format!(
        r#"{ENVIRONMENT} (import "wasi:filesystem/preopens@0.2.3" "get-directories" (func $dirs (param i32)))"#
    );
    // Each answer is put over a mark that is not empty; the lengths and the option's tag are added
    // up.
    let probe = "
        (i32.store (i32.const 4100) (i32.const 5)) (i32.store (i32.const 4108) (i32.const 5))
        (i32.store (i32.const 4116) (i32.const 5)) (i32.store8 (i32.const 4120) (i32.const 1))
        (call $env (i32.const 4096)) (call $args (i32.const 4104)) (call $dirs (i32.const 4112)) (call $cwd (i32.const 4120))
        (i32.add (i32.add (i32.load (i32.const 4100)) (i32.load (i32.const 4108)))
                 (i32.add (i32.load (i32.const 4116)) (i32.load8_u (i32.const 4120))))";
    let said = run(&guest(&imports, probe), "wasi");
    assert!(said.ends_with("answer 0"), "{said}");
}

#[test]
fn a_socket_is_denied_by_its_own_error_code() {
    let imports = r#"(import "wasi:sockets/tcp-create-socket@0.2.3" "create-tcp-socket" (func $tcp (param i32 i32)))"#;
    // The tag of an error is 1, and `access-denied` is case 1 of the code.
    let probe = "(call $tcp (i32.const 0) (i32.const 4096))
        (i32.add (i32.mul (i32.load8_u (i32.const 4096)) (i32.const 2)) (i32.load8_u (i32.const 4100)))";
    let said = run(&guest(imports, probe), "wasi");
    assert!(said.ends_with("answer 3"), "{said}");
}

#[test]
fn clocks_answer_only_when_they_are_granted() {
    let monotonic = guest(CLOCKS, "(drop (call $now)) (i64.le_u (call $now) (call $now))");
    let wall =
        guest(CLOCKS, "(call $wall (i32.const 4096)) (i64.gt_u (i64.load (i32.const 4096)) (i64.const 1700000000))");
    for bytes in [&monotonic, &wall] {
        let said = run(bytes, "wasi,random");
        assert!(said.starts_with("trap: it called wasi:clocks/") && said.contains("`--allow clocks`"), "{said}");
        let said = run(bytes, "clocks");
        assert!(said.ends_with("answer 1"), "{said}");
    }
    let error = load(&monotonic, "").map(drop).unwrap_err();
    assert!(error.to_string().contains("wasi:clocks/monotonic-clock@0.2.3"), "{error}");
}

#[test]
fn random_numbers_are_given_only_when_they_are_granted_and_within_bounds() {
    let differ = guest(RANDOM, "(i64.ne (call $number) (call $number))");
    let said = run(&differ, "clocks");
    assert!(said.contains("wasi:random/random#get-random-u64") && said.contains("`--allow random`"), "{said}");
    let said = run(&differ, "random");
    assert!(said.ends_with("answer 1"), "{said}");
    let length = "(call $bytes (i64.const 8) (i32.const 4096)) (i32.load (i32.const 4100))";
    let said = run(&guest(RANDOM, length), "random");
    assert!(said.ends_with("answer 8"), "{said}");
    let flood = "(call $bytes (i64.const 0xffffffffff) (i32.const 4096)) i32.const 0";
    let said = run(&guest(RANDOM, flood), "random");
    assert!(said.contains("4096 are given at once"), "{said}");
}

#[test]
fn a_wait_is_over_at_once() {
    let imports = r#"
        (import "wasi:clocks/monotonic-clock@0.2.3" "subscribe-duration" (func $after (param i64) (result i32)))
        (import "wasi:io/poll@0.2.3" "[method]pollable.block" (func $block (param i32)))
        (import "wasi:io/poll@0.2.3" "[method]pollable.ready" (func $ready (param i32) (result i32)))
        (import "wasi:io/poll@0.2.3" "poll" (func $poll (param i32 i32 i32)))"#;
    // An hour, three times over; of two polled, two are ready.
    let probe = "
        (i32.store (i32.const 4096) (call $after (i64.const 3600000000000)))
        (i32.store (i32.const 4100) (call $after (i64.const 3600000000000)))
        (call $block (i32.load (i32.const 4096)))
        (call $poll (i32.const 4096) (i32.const 2) (i32.const 4104))
        (i32.add (i32.load (i32.const 4108)) (call $ready (i32.load (i32.const 4100))))";
    let said = run(&guest(imports, probe), "clocks");
    assert!(said.ends_with("answer 3"), "{said}");
}

#[test]
fn an_exit_ends_the_call_and_nothing_else() {
    let said = run(
        &guest(
            r#"(import "wasi:cli/exit@0.2.3" "exit" (func $exit (param i32)))"#,
            "(call $exit (i32.const 0)) i32.const 1",
        ),
        "wasi",
    );
    assert!(said.starts_with("trap: it called wasi:cli/exit"), "{said}");
}

#[test]
fn handles_are_counted_and_those_given_back_do_not_count() {
    let times = |body: &str| {
        format!(
            "(local $i i32) (loop $again {body}
                (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 5000)))) i32.const 1"
        )
    };
    let kept = run(&guest(STDIO, &times("(drop (call $out))")), "wasi");
    assert!(kept.starts_with("trap: it holds 1024 handles"), "{kept}");
    let given_back = run(&guest(STDIO, &times("(call $drop (call $out))")), "wasi");
    assert!(given_back.ends_with("answer 1"), "{given_back}");
    let lent = times(
        "(if (i32.eqz (local.get $i)) (then (i32.store (i32.const 4096) (call $out))))
         (call $room (i32.load (i32.const 4096)) (i32.const 4104))",
    );
    let lent = run(&guest(STDIO, &lent), "wasi");
    assert!(lent.ends_with("answer 1"), "{lent}");
}

#[test]
fn standard_output_and_error_go_to_the_log_line_by_line() {
    // The first write ends in the middle of the second line, which goes on to standard output;
    // `and` alone goes to standard error.
    let probe = "
        (call $write (call $out) (i32.const 1024) (i32.const 11) (i32.const 4096))
        (call $write (call $out) (i32.const 1035) (i32.const 8) (i32.const 4096))
        (call $write (call $err) (i32.const 1031) (i32.const 3) (i32.const 4096))
        (i32.load8_u (i32.const 4096))";
    let bytes = guest(STDIO, probe);
    let policy = load(&bytes, "wasi").unwrap().into_policy("{}").unwrap();
    let scope = Scope { service: ServiceName::new("svc").unwrap(), zone: "".into() };
    let page = logged(|| {
        let error = policy.build(&scope, &[]).map(drop).unwrap_err().to_string();
        assert!(error.ends_with("answer 0"), "{error}");
    });
    let lines: Vec<&str> = page.lines().map(str::trim_start).collect();
    assert_eq!(lines.len(), 3, "{page}");
    assert!(lines[0].starts_with("INFO") && lines[0].contains("a line"), "{page}");
    assert!(lines[1].starts_with("INFO") && lines[1].contains("and another"), "{page}");
    assert!(lines[2].starts_with("WARN") && lines[2].contains(" and"), "{page}");
}

#[test]
fn a_flood_on_standard_output_is_bounded_like_the_log() {
    // 3,000 lines, and one that is as long as the memory.
    let probe = r"(local $i i32) (local $out i32) (local.set $out (call $out))
        (loop $again (call $write (local.get $out) (i32.const 1024) (i32.const 7) (i32.const 4096))
            (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 3000))))
        (call $write (local.get $out) (i32.const 2048) (i32.const 100000) (i32.const 1500)) i32.const 1";
    let bytes = guest(STDIO, probe);
    let policy = load(&bytes, "wasi").unwrap().into_policy("{}").unwrap();
    let scope = Scope { service: ServiceName::new("svc").unwrap(), zone: "".into() };
    let page = logged(|| {
        let error = policy.build(&scope, &[]).map(drop).unwrap_err().to_string();
        assert!(error.ends_with("answer 1"), "{error}");
    });
    let limits = Limits::default();
    assert_eq!(page.lines().count(), limits.log_messages as usize);
    assert!(page.len() < limits.log_messages as usize * 200);
}

#[test]
fn an_inspection_tells_what_each_import_comes_to_also_of_what_is_refused() {
    let bytes = guest(&format!("{ENVIRONMENT}{CLOCKS}"), "i32.const 1");
    let inspect = |allow: &str| engine().inspect(&bytes, "probe.wasm", allow.parse().unwrap()).unwrap();
    let access = |inspection: &Inspection, name: &str| {
        inspection.imports.iter().find(|import| import.name.contains(name)).unwrap().access
    };
    let refused = inspect("");
    assert!(refused.loaded.is_err());
    assert_eq!(refused.kind, Some(Kind::Policy));
    assert_eq!(access(&refused, "environment"), Access::Needs(Grant::Wasi));
    assert_eq!(access(&refused, "wall-clock"), Access::Needs(Grant::Clocks));
    assert_eq!(refused.memories, [MemoryLimits { initial: 2 << 16, maximum: Some(9 << 16) }]);
    let allowed = inspect("clocks");
    assert_eq!(allowed.loaded.as_ref().unwrap().description.name, "probe");
    assert_eq!(access(&allowed, "environment"), Access::Allowed(Grant::Wasi));
    assert_eq!(access(&allowed, "wall-clock"), Access::Allowed(Grant::Clocks));
}
