//! Asks for facts of a request where there is none: in build. It refuses to build when it gets any.

use test_guests::plain;
use waymark_plugin::{
    __private::GrantedHost, Config, Description, Endpoint, Host as _, Plan, Policy, Scope, export_policy, receiving,
};

struct Guest;

impl Policy for Guest {
    const DESCRIPTION: Description =
        plain("reads_headers_in_build", "Asks for facts of a request where there is none: in build.");

    fn build(_: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let host = GrantedHost;
        let header = host.header("waymark-service").or_else(|| host.header(&"\u{0}x".repeat(1 << 20)));
        let seen = header.is_some() || !host.path().is_empty() || host.tried(0) || host.in_flight(u32::MAX) > 0;
        if seen || host.latency_us(0) > 0 {
            return Err("the test guest saw a request in build".to_owned());
        }
        Ok(Plan::Rotation(receiving(endpoints)))
    }
}

export_policy!(Guest);
