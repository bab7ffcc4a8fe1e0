//! A load-balancing policy, and the macro that makes a component of it.

use crate::prelude::*;
use crate::{
    Config, Context, Decision, Description, Endpoint, Field, Host, Scope,
    generated::balancer::exports::waymark::plugin::balancer::Plan as WirePlan,
};

/// A load-balancing policy.
///
/// It is a pure function of (configuration, endpoints, context): the host may run any number of
/// copies at once, build it again at any time, and throws every copy away when the endpoints
/// change. What it keeps from one pick to the next is therefore a hint, never a count to rely on.
pub trait Policy: Sized + 'static {
    /// What this policy is, and which fields its configuration may have.
    const DESCRIPTION: Description;

    /// Get ready for these endpoints: registered, not draining and not ejected. There may be none;
    /// an empty rotation is the right answer then, and the host says why there is nobody to send
    /// to. The error is shown to people as it is.
    fn build(config: &Config<'_>, scope: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String>;

    /// Choose for one request. Called only when `build` answered [`Plan::EachRequest`].
    fn pick(&mut self, context: Context, host: &impl Host) -> Decision {
        let _ = (context, host);
        Decision::Fail("the policy wants to be asked for each request and has no `pick`".to_owned())
    }
}

/// How the host turns one set of endpoints into picks. Every number is an index into the list that
/// `build` got.
///
/// Prefer the first two. They are checked once, cannot fail at the time of a pick, and cost a
/// request nothing; the third costs each request a call into the plugin. It is for what cannot be
/// known before: load, headers, what was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan<P> {
    /// Walk this list for ever, one entry a request.
    Rotation(Vec<u32>),
    /// The entry at (hash of the request's key) modulo the length. A request without a key gets a
    /// random entry.
    HashTable(Vec<u32>),
    /// Ask this for every request.
    EachRequest(P),
}

impl<P> Plan<P> {
    /// The list of a rotation; none for another plan.
    pub fn rotation(&self) -> Option<&[u32]> {
        match self {
            Self::Rotation(entries) => Some(entries),
            Self::HashTable(_) | Self::EachRequest(_) => None,
        }
    }
}

/// The endpoints that may get anything, by index: those whose weight is not 0, which means "send it
/// nothing".
pub fn receiving(endpoints: &[Endpoint]) -> Vec<u32> {
    (0u32..).zip(endpoints).filter(|(_, endpoint)| endpoint.weight > 0).map(|(index, _)| index).collect()
}

/// What an endpoint was registered with under this name.
pub fn metadata<'a>(endpoint: &'a Endpoint, name: &str) -> Option<&'a str> {
    endpoint.metadata.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Whether an endpoint was registered with all of these names and values.
pub fn has_metadata(endpoint: &Endpoint, wanted: &[(String, String)]) -> bool {
    wanted.iter().all(|(name, value)| metadata(endpoint, name) == Some(value))
}

/// How many endpoints may get something and have no entry in this plan, as happens when a table is
/// short for them. Worth a warning: nobody would ever call them.
pub fn left_out(endpoints: &[Endpoint], entries: &[u32]) -> usize {
    let mut out: Vec<bool> = endpoints.iter().map(|endpoint| endpoint.weight > 0).collect();
    for index in entries {
        out[*index as usize] = false;
    }
    out.into_iter().filter(|out| *out).count()
}

/// The configuration field of policies that hash endpoints, for [`hash_name`].
pub const HASH_KEY: Field = Field {
    name: "hash_key",
    default: r#""""#,
    doc: "the metadata whose value names an endpoint for hashing, so that a successor takes over its keys; empty, or where \
          an endpoint lacks it: its address",
};

/// What names an endpoint for hashing: the value of that metadata, else its address, as in Envoy
/// (`hash_key` in the metadata `envoy.lb`) and gRPC. Not the id, which in some layouts is a lease
/// and changes when the instance registers again.
pub fn hash_name<'a>(endpoint: &'a Endpoint, hash_key: &str) -> &'a str {
    metadata(endpoint, hash_key).unwrap_or(&endpoint.address)
}

/// Make a component of a type that implements [`Policy`]. Once in a crate, whose `crate-type` is
/// `cdylib`.
#[macro_export]
macro_rules! export_policy {
    ($policy:ident) => {
        // Elsewhere it only checks the type, which also counts as its use.
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = $crate::__private::is_policy::<$policy>();

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::__private as sdk;

            struct Exported;

            static POLICY: sdk::Slot<$policy> = sdk::Slot::new();

            impl sdk::balancer::exports::waymark::plugin::balancer::Guest for Exported {
                fn describe() -> sdk::balancer::waymark::plugin::types::Description {
                    <$policy as $crate::Policy>::DESCRIPTION.into()
                }

                fn build(
                    config: sdk::String,
                    scope: $crate::Scope,
                    endpoints: sdk::Vec<$crate::Endpoint>,
                ) -> ::core::result::Result<sdk::balancer::exports::waymark::plugin::balancer::Plan, sdk::String>
                {
                    sdk::report_panics();
                    let (plan, policy) = sdk::split(sdk::build::<$policy>(&config, &scope, &endpoints)?);
                    POLICY.set(policy);
                    ::core::result::Result::Ok(plan)
                }

                fn pick(context: $crate::Context) -> $crate::Decision {
                    POLICY.with(|policy| sdk::pick(policy, context, &sdk::GrantedHost))
                }
            }

    sdk::balancer::export!(Exported with_types_in $crate::__private::balancer);
        };
    };
}

/// What `build` of the component does; the same that `testing::build` does in a test.
#[doc(hidden)]
pub fn build<P: Policy>(config: &str, scope: &Scope, endpoints: &[Endpoint]) -> Result<Plan<P>, String> {
    P::build(&Config::read(config, &P::DESCRIPTION)?, scope, endpoints)
}

/// Compiles only for a policy.
#[doc(hidden)]
pub const fn is_policy<P: Policy>() {}

/// A plan as the host wants it, and the policy that stays here.
#[doc(hidden)]
pub fn split<P>(plan: Plan<P>) -> (WirePlan, Option<P>) {
    match plan {
        Plan::Rotation(entries) => (WirePlan::Rotation(entries), None),
        Plan::HashTable(entries) => (WirePlan::HashTable(entries), None),
        Plan::EachRequest(policy) => (WirePlan::EachRequest, Some(policy)),
    }
}

/// What `pick` of the component does.
#[doc(hidden)]
pub fn pick<P: Policy>(policy: &mut Option<P>, context: Context, host: &impl Host) -> Decision {
    match policy {
        Some(policy) => policy.pick(context, host),
        None => Decision::Fail("the host asked for a pick, and the last `build` did not ask for that".to_owned()),
    }
}
