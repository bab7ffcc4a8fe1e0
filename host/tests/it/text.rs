//! What components and registries are called, as a terminal gets it.

use std::process::{Command, Output};

fn waymark(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waymark"));
    command.args(arguments).env("NO_COLOR", "1").env_remove("WAYMARK_LOG").output().unwrap()
}

fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let prints =
        |c: char| c == '\n' || (!c.is_control() && !matches!(c, '\u{202a}'..='\u{202e}' | '\u{200b}' | '\u{2028}'));
    assert!(text.chars().all(prints), "{text:?}");
    text
}

#[test]
fn a_component_neither_moves_the_cursor_of_who_inspects_it_nor_fills_the_screen() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("evil.wasm");
    let long = "x".repeat(50_000);
    let text = format!(
        r#"(component
            (import "url=<http://a\1b[2J\1b]0;owned\07\e2\80\ae>" (func))
            (import "url=<http://{long}>" (func)))"#
    );
    std::fs::write(&file, wat::parse_str(text).unwrap()).unwrap();
    let file = file.to_str().unwrap();
    for arguments in
        [&["plugin", "inspect", file][..], &["plugin", "inspect", file, "--json"], &["plugin", "check", file]]
    {
        let output = waymark(arguments);
        let (out, err) = (shown(&output.stdout), shown(&output.stderr));
        assert!(!output.status.success(), "{arguments:?}");
        let told = out.contains("u{1b}[2J") || out.contains("u001b[2J");
        assert!(told || arguments[1] != "inspect", "{arguments:?}: {out} {err}");
        if !arguments.contains(&"--json") {
            assert!(out.len() + err.len() < 20_000, "{arguments:?}: {} and {}", out.len(), err.len());
        }
    }
}
