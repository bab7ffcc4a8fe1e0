//! The subjects: what stands between the clients and the instances.

use std::process::{Command, Stdio};

use clap::ValueEnum;

/// One of them. The baseline is [`Subject::Bare`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    /// Nothing in between.
    Direct,
    /// Hyper on one thread: what the others are compared with.
    Bare,
    /// Hyper on a runtime that moves work between threads.
    BareMulti,
    /// The crate `h2` on one thread.
    H2Only,
    /// The crate `waymark-http2` on one thread.
    OwnHttp2,
    /// `waymark node` with a policy that makes a plan.
    Plan,
    /// `waymark node` with a component that is asked for each request.
    EachRequest,
    Haproxy,
    Nginx,
    Nghttpx,
    Pingora,
    Envoy,
}

impl Subject {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Bare => "bare hyper, current-thread",
            Self::BareMulti => "bare hyper, multi-thread",
            Self::H2Only => "h2 alone, current-thread",
            Self::OwnHttp2 => "own HTTP/2 alone, current-thread",
            Self::Plan => "waymark node, plan (round_robin.wasm)",
            Self::EachRequest => "waymark node, Wasm each request (least_request.wasm)",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Nghttpx => "nghttpx",
            Self::Pingora => "Pingora",
            Self::Envoy => "Envoy",
        }
    }

    /// Whether it is the program that this benchmark is about.
    pub(crate) fn is_waymark(self) -> bool {
        matches!(self, Self::Plan | Self::EachRequest)
    }

    /// The program, if it is not ours.
    pub(crate) fn program(self) -> Option<&'static str> {
        match self {
            Self::Direct
            | Self::Bare
            | Self::BareMulti
            | Self::H2Only
            | Self::OwnHttp2
            | Self::Plan
            | Self::EachRequest => None,
            Self::Haproxy => Some("haproxy"),
            Self::Nginx => Some("nginx"),
            Self::Nghttpx => Some("nghttpx"),
            Self::Pingora => Some("pingora-round-robin"),
            Self::Envoy => Some("envoy"),
        }
    }

    /// What a program that is not ours says of its version, if it can be started; nothing for what
    /// is ours.
    pub(crate) fn version(self) -> Option<String> {
        let Some(program) = self.program() else { return Some(String::new()) };
        let flag = if matches!(self, Self::Haproxy | Self::Nginx) { "-v" } else { "--version" };
        let output = Command::new(program).arg(flag).stdin(Stdio::null()).output().ok()?;
        if !output.status.success() {
            return None;
        }
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        said.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
    }
}
