//! What is printed: a table of what was timed for each shape, and one of what was counted.

use super::{
    harness::{
        Samples,
        report::{Table, Unit},
    },
    subjects::Subject,
    syscalls::Counts,
};

/// What one subject showed under one shape.
pub(crate) struct Figures {
    pub(crate) subject: Subject,
    /// A sample a round each.
    pub(crate) timed: Timed,
    pub(crate) counted: Counted,
}

#[derive(Clone, Default)]
pub(crate) struct Timed {
    pub(crate) rate: Samples,
    pub(crate) cpu: Samples,
    pub(crate) p50: Samples,
    pub(crate) p99: Samples,
}

/// A call's, where they were counted.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counted {
    pub(crate) syscalls: Option<Counts>,
    pub(crate) instructions: Option<f64>,
}

/// What was timed, round by round.
pub(crate) fn timed(title: &str, all: &[Figures]) -> Table {
    let mut table = Table::new(
        title,
        [
            ("calls", Unit::PerSecond),
            ("CPU a call", Unit::Microseconds),
            ("CPU to bare", Unit::Ratio),
            ("p50", Unit::Microseconds),
            ("p50 to bare", Unit::Ratio),
            ("p99", Unit::Microseconds),
            ("p99 to bare", Unit::Ratio),
        ],
    );
    let bare = baseline(all).map_or_else(Timed::default, |bare| bare.timed.clone());
    for Figures { subject, timed: Timed { rate, cpu, p50, p99 }, .. } in all {
        let [cpu_ratio, p50_ratio, p99_ratio] = [cpu.ratio(&bare.cpu), p50.ratio(&bare.p50), p99.ratio(&bare.p99)];
        let figures = [rate, cpu, &cpu_ratio, p50, &p50_ratio, p99, &p99_ratio];
        table.row(subject.title(), figures.map(Clone::clone).into());
    }
    table
}

/// What was counted, in a run of its own.
pub(crate) fn counted(title: &str, all: &[Figures]) -> Table {
    let mut table = Table::new(
        format!("{title}: counted a call"),
        [
            ("system calls", Unit::Count),
            ("writes", Unit::Count),
            ("reads", Unit::Count),
            ("futex", Unit::Count),
            ("epoll_wait", Unit::Count),
            ("other", Unit::Count),
            ("user instructions", Unit::Count),
            ("instructions to bare", Unit::Ratio),
        ],
    );
    let one = |figure: Option<f64>| figure.map_or_else(Samples::default, Samples::one);
    let bare = one(baseline(all).and_then(|bare| bare.counted.instructions));
    for Figures { subject, counted: Counted { syscalls, instructions }, .. } in all {
        let kinds: [fn(Counts) -> f64; 6] =
            [Counts::all, |c| c.writes, |c| c.reads, |c| c.futex, |c| c.epoll_wait, |c| c.other];
        let mut figures: Vec<Samples> = kinds.into_iter().map(|kind| one(syscalls.map(kind))).collect();
        let instructions = one(*instructions);
        let ratio = instructions.ratio(&bare);
        figures.extend([instructions, ratio]);
        table.row(subject.title(), figures);
    }
    table
}

fn baseline(all: &[Figures]) -> Option<&Figures> {
    all.iter().find(|figures| figures.subject == Subject::Bare)
}
