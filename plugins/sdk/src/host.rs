//! What a plugin may ask of the host.

use crate::prelude::*;
use crate::{Level, LoadReport};

/// Facts about the request a pick is for, and the live figures of each endpoint. An endpoint is an
/// index into the list that `build` got.
///
/// [`crate::Policy::pick`] gets one; what differs between the host and a test is which. Every
/// question costs a call into the host (tens of nanoseconds, a header a few hundred), so ask only
/// what the choice needs.
pub trait Host {
    /// The gRPC path, for example `/hello.Greeter1/SayHello1`.
    fn path(&self) -> String;
    /// The first value of a header, by its lower-case name; none when it is absent or not text.
    fn header(&self, name: &str) -> Option<String>;
    /// Whether an earlier attempt of this same request failed on this endpoint.
    fn tried(&self, endpoint: u32) -> bool;
    /// Calls that have begun on it and not yet ended.
    fn in_flight(&self, endpoint: u32) -> u32;
    /// Peak-sensitive moving average of the time to an answer, in microseconds; 0 while no call has
    /// ended.
    fn latency_us(&self, endpoint: u32) -> u32;
    /// How many of its calls failed or were answered by an error, from 0 to 1: an average over
    /// about the last 32.
    fn failure_rate(&self, endpoint: u32) -> f64;
    /// What its instance said last of its own load (ORCA); none when it never did. It stays while
    /// nothing newer comes: mind its age.
    ///
    /// ```
    /// use waymark_plugin::{Host, LoadReport, testing::FakeHost};
    ///
    /// /// How much it is used, if it said so within the last minute.
    /// fn utilization(host: &impl Host, endpoint: u32) -> Option<f64> {
    ///     host.report(endpoint).filter(|report| report.age_ms < 60_000).map(|report| report.application_utilization)
    /// }
    ///
    /// let said = LoadReport { application_utilization: 0.7, rps: 120.0, ..LoadReport::default() };
    /// let host = FakeHost { reports: [(1, said)].into(), ..FakeHost::default() };
    /// assert_eq!((utilization(&host, 0), utilization(&host, 1)), (None, Some(0.7)));
    /// ```
    fn report(&self, endpoint: u32) -> Option<LoadReport>;
    /// A figure of its own that its last report named; none when that did not.
    ///
    /// ```
    /// use waymark_plugin::{Host, testing::FakeHost};
    ///
    /// let mut host = FakeHost::default();
    /// host.metrics.insert((0, "queue".to_owned()), 3.0);
    /// assert_eq!((host.metric(0, "queue"), host.metric(0, "cache")), (Some(3.0), None));
    /// ```
    fn metric(&self, endpoint: u32, name: &str) -> Option<f64>;
}

/// Nothing that was said, just now.
impl Default for LoadReport {
    fn default() -> Self {
        Self {
            cpu_utilization: 0.0,
            memory_utilization: 0.0,
            application_utilization: 0.0,
            rps: 0.0,
            eps: 0.0,
            age_ms: 0,
        }
    }
}

/// The real one: each question is an import of the component. Only those that a plugin asks become
/// imports.
#[derive(Debug)]
#[doc(hidden)]
pub struct GrantedHost;

#[cfg(target_arch = "wasm32")]
mod granted {
    use super::{GrantedHost, Host, LoadReport};
    use crate::generated::balancer::waymark::plugin::{load, request};
    use crate::prelude::*;

    impl Host for GrantedHost {
        fn path(&self) -> String {
            request::path()
        }

        fn header(&self, name: &str) -> Option<String> {
            request::header(name)
        }

        fn tried(&self, endpoint: u32) -> bool {
            request::tried(endpoint)
        }

        fn in_flight(&self, endpoint: u32) -> u32 {
            load::in_flight(endpoint)
        }

        fn latency_us(&self, endpoint: u32) -> u32 {
            load::latency_us(endpoint)
        }

        fn failure_rate(&self, endpoint: u32) -> f64 {
            load::failure_rate(endpoint)
        }

        fn report(&self, endpoint: u32) -> Option<LoadReport> {
            load::report(endpoint)
        }

        fn metric(&self, endpoint: u32, name: &str) -> Option<f64> {
            load::metric(endpoint, name)
        }
    }
}

/// Hand the host one message. It is cut when long and dropped when there are too many. In a test it
/// can be read back with `testing::logged`.
#[cfg(target_arch = "wasm32")]
pub fn log(level: Level, message: &str) {
    crate::generated::balancer::waymark::plugin::log::log(level, message);
}

/// Hand the host one message. It is cut when long and dropped when there are too many. In a test it
/// can be read back with `testing::logged`.
#[cfg(all(not(target_arch = "wasm32"), feature = "std"))]
pub fn log(level: Level, message: &str) {
    crate::testing::record(level, message);
}

/// Hand the host one message. Without the standard library there is nothing to keep it in, outside
/// a component.
#[cfg(all(not(target_arch = "wasm32"), not(feature = "std")))]
pub fn log(_: Level, _: &str) {}

/// Let the host log what a panic says before the trap that follows it; a trap by itself says only
/// "unreachable".
///
/// The export macros see to it. A plugin without the standard library has a panic handler of its
/// own, which calls [`log_panic`].
#[doc(hidden)]
pub fn report_panics() {
    #[cfg(feature = "std")]
    std::panic::set_hook(Box::new(|panic| log_panic(panic.payload_as_str(), panic.location())));
}

/// Hand the host what a panic said: for the `#[panic_handler]` of a plugin without the standard
/// library. With it, the export macros do so.
pub fn log_panic(said: Option<&str>, location: Option<&core::panic::Location<'_>>) {
    let mut message = said.unwrap_or("panicked").to_owned();
    if let Some(location) = location {
        message += ", at ";
        message += location.file();
        message += ":";
        push_decimal(&mut message, location.line());
    }
    log(Level::Error, &message);
}

/// Written out because the standard library's formatting is a tenth of a small plugin.
pub(crate) fn push_decimal(text: &mut String, number: u32) {
    if number >= 10 {
        push_decimal(text, number / 10);
    }
    text.push(char::from(b'0' + (number % 10) as u8));
}
