//! Handles of resources, which are memory of the host.

use super::{engine, guest::guest, guest::said};

/// A policy that exports a resource of its own beside what it decides.
const OWN: &str = r"
package test:guest;

interface things { resource thing; }

world guest {
    export waymark:plugin/balancer@0.1.0;
    export things;
}
";

const IMPORTS: &str = r#"
    (import "[export]test:guest/things" "[resource-new]thing" (func $new (param i32) (result i32)))
    (import "[export]test:guest/things" "[resource-drop]thing" (func $drop (param i32)))"#;

/// Does this so many times, and answers 1.
fn times(n: u32, body: &str) -> Vec<u8> {
    let probe = format!(
        "(local $i i32) (loop $again {body}
            (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const {n})))) i32.const 1"
    );
    guest(OWN, IMPORTS, &probe)
}

#[test]
fn handles_of_its_own_resources_are_bounded_and_those_given_back_do_not_count() {
    let run = |bytes: &[u8]| said(engine().load(bytes, "probe.wasm").unwrap());
    let few = run(&times(1000, "(drop (call $new (local.get $i)))"));
    assert!(few.ends_with("answer 1"), "{few}");
    let many = run(&times(10_000, "(drop (call $new (local.get $i)))"));
    assert!(many.starts_with("trap: it holds 4096 handles"), "{many}");
    let given_back = run(&times(10_000, "(call $drop (call $new (local.get $i)))"));
    assert!(given_back.ends_with("answer 1"), "{given_back}");
}
