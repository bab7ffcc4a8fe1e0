//! The demo as a user runs it: the built command, its children, its exit code.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

fn waymark() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waymark"));
    command.env_remove("WAYMARK_REGISTRY").env_remove("WAYMARK_LOG").stdin(Stdio::null());
    command
}

/// The demo that is told in lines, which are read as they come.
struct Told {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    heard: Vec<String>,
}

impl Told {
    fn start(arguments: &[&str]) -> Self {
        let mut child =
            waymark().args(["demo", "--plain", "--fast"]).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, heard: Vec::new() }
    }

    /// Reads up to the line that has this in it.
    fn until(&mut self, text: &str) -> String {
        // A demo that is kept tells how calls go for ever: what has not come by now will not come.
        let late = Instant::now() + Duration::from_secs(120);
        for line in self.lines.by_ref().take_while(|_| Instant::now() < late) {
            let line = line.unwrap();
            self.heard.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
        panic!("the demo did not say {text:?}:\n{}", self.heard.join("\n"));
    }

    /// The addresses of the instances it told of.
    fn instances(&self) -> Vec<String> {
        let registered = self.heard.iter().filter(|line| line.contains("is registered"));
        registered
            .map(|line| line.split_whitespace().find(|word| word.contains("127.0.0.1:")).unwrap().into())
            .collect()
    }

    fn interrupt(&self) {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        // A failed test leaves nothing behind: the instances end with the demo.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_demo_runs_to_its_summary_and_everything_is_as_it_should_be() {
    let run = waymark().args(["demo", "--fast", "--json"]).output().unwrap();
    let (out, err) = (String::from_utf8(run.stdout).unwrap(), String::from_utf8(run.stderr).unwrap());
    assert!(run.status.success(), "{out}\n{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["ok"], true, "{out}");
    assert_eq!(report["calls"]["failed"], 0, "{out}");
    let policies: Vec<_> = report["policies"].as_array().unwrap().iter().map(|policy| &policy["name"]).collect();
    assert_eq!(policies, ["round_robin", "weighted", "zone_aware", "least_request"]);
    let origin = report["policies"][3]["origin"].as_str().unwrap();
    assert!(origin.ends_with("least_request.wasm") && !std::path::Path::new(origin).exists(), "{origin}");
    // Unless somebody else has the note's ports, its lines are there to the letter.
    if report["note"]["ports_as_in_the_note"] == true {
        assert_eq!(
            report["note"]["entries"],
            serde_json::json!([
                ["ayang/server1/127.0.0.1:8080", r#"{"Op":0,"Addr":"127.0.0.1:8080","Metadata":null}"#],
                ["ayang/server2/127.0.0.1:8081", r#"{"Op":0,"Addr":"127.0.0.1:8081","Metadata":null}"#],
            ])
        );
    }
}

#[test]
fn an_interrupt_in_the_middle_stops_every_instance() {
    let mut told = Told::start(&[]);
    told.until("is live");
    let instances = told.instances();
    assert_eq!(instances.len(), 5, "{:?}", told.heard);
    told.interrupt();
    told.until("SIGINT: stopping");
    assert_eq!(told.child.wait().unwrap().code(), Some(130));
    for instance in instances {
        assert!(TcpStream::connect(&instance).is_err(), "{instance} still listens");
    }
}

#[test]
fn a_demo_that_is_kept_answers_the_commands_it_prints() {
    let mut told = Told::start(&["--keep"]);
    let line = told.until(" policy set demo/greeter weighted");
    let arguments: Vec<&str> = line.split_whitespace().skip(1).collect();
    let set = waymark().args(arguments).output().unwrap();
    assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    told.until("weighted is live");
    told.interrupt();
    assert_eq!(told.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_registry_that_is_away_is_named() {
    let run = waymark().args(["demo", "--plain", "--registry", "http://127.0.0.1:1"]).output().unwrap();
    assert_eq!(run.status.code(), Some(1));
    let err = String::from_utf8(run.stderr).unwrap();
    assert!(err.contains("cannot reach the registry at http://127.0.0.1:1"), "{err}");
}
