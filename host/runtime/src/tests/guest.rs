//! A policy written by a test: its world, its imports and what it does in `build`.

use waymark_core::{
    model::{Endpoint, ServiceName},
    policy::{BuildError, Policy as _, Scope},
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::Plugin;

/// A policy that probes in `build`: it refuses with the text `answer N`, where N is what `$probe`
/// returned, 0 to 9. `wit` has its world, `guest`.
///
/// Memory from 4096 on is the probe's; what the host hands over is put at 65,536 and after.
pub(super) fn guest(wit: &str, imports: &str, probe: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
        {imports}
        (memory (export "memory") 2 9)
        (global $top (mut i32) (i32.const 65536))
        (data (i32.const 0) "probe0.1A probe.answer ?")
        (data (i32.const 64) "\00\00\00\00\05\00\00\00\05\00\00\00\03\00\00\00\08\00\00\00\08\00\00\00")
        (data (i32.const 1024) "a line\nand another\n")
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
            (local $at i32)
            (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
            (global.set $top (i32.add (local.get $at) (local.get 3)))
            (local.get $at))
        (func (export "waymark:plugin/balancer@0.1.0#describe") (result i32) (i32.const 64))
        (func (export "waymark:plugin/balancer@0.1.0#build") (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
            (i32.store8 (i32.const 23) (i32.add (i32.const 48) (call $probe)))
            (i32.store (i32.const 128) (i32.const 1))
            (i32.store (i32.const 132) (i32.const 15))
            (i32.store (i32.const 136) (i32.const 9))
            (i32.const 128))
        (func (export "waymark:plugin/balancer@0.1.0#pick") (param i32 i32 i32 i32 i32 i32) (result i32) unreachable)
        (func $probe (result i32) {probe}))"#
    );
    let mut module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"));
    let mut resolve = Resolve::default();
    resolve.push_path("wit/0.1.0").unwrap();
    let package = resolve.push_str("guest.wit", wit).unwrap();
    let world = resolve.select_world(&[package], Some("guest")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

/// What `build` says: the answer, or how it failed.
pub(super) fn said(plugin: Plugin) -> String {
    let policy = plugin.into_policy("{}").unwrap();
    let scope = Scope { service: ServiceName::new("svc").unwrap(), zone: "".into() };
    let error = policy.build(&scope, &[Endpoint::at("192.0.2.1:80".parse().unwrap())]).map(drop).unwrap_err();
    match error {
        BuildError::Trapped { reason, .. } => format!("trap: {reason}"),
        other => other.to_string(),
    }
}
