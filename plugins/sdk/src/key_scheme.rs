//! A key scheme, and the macro that makes a component of it.

use crate::prelude::*;
use crate::{Config, Description, Entry, Instance};

/// What a service's keys and values in etcd look like: a set of pure functions.
pub trait KeyScheme {
    /// What this key scheme is, and which fields its configuration may have.
    const DESCRIPTION: Description;

    /// The prefixes to read and to watch for `service`. Together they cover every key of it, and no
    /// key of another service. The error says why this scheme cannot name such a service.
    fn prefixes(config: &Config<'_>, service: &str) -> Result<Vec<String>, String>;

    /// What to write for one instance. Every key lies under one of the service's prefixes.
    fn encode(config: &Config<'_>, service: &str, instance: &Instance, lease: Lease<'_>) -> Result<Vec<Entry>, String>;

    /// What one entry says: the instances it registers, none for a marker key. An error means "not
    /// written by this scheme": the host skips the entry, counts it and logs it once.
    fn decode(config: &Config<'_>, service: &str, entry: &Entry) -> Result<Vec<Instance>, String>;
}

/// The lease that an instance's entries are put under, for schemes that write it into a key or a
/// value. The host attaches the lease itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease<'a> {
    /// Its id, in decimal.
    pub id: &'a str,
    /// How long it lives without a keep-alive, in seconds.
    pub ttl_seconds: u32,
}

/// Make a component of a type that implements [`KeyScheme`]. Once in a crate, whose `crate-type` is
/// `cdylib`.
#[macro_export]
macro_rules! export_key_scheme {
    ($scheme:ident) => {
        // Elsewhere it only checks the type, which also counts as its use.
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = $crate::__private::is_key_scheme::<$scheme>();

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::{
                __private::{self as sdk, String, Vec},
                Entry, Instance,
            };

            struct Exported;

            impl sdk::key_scheme::exports::waymark::plugin::key_scheme::Guest for Exported {
                fn describe() -> sdk::balancer::waymark::plugin::types::Description {
                    <$scheme as $crate::KeyScheme>::DESCRIPTION.into()
                }

                fn prefixes(config: String, service: String) -> ::core::result::Result<Vec<String>, String> {
                    sdk::report_panics();
                    sdk::prefixes::<$scheme>(&config, &service)
                }

                fn encode(
                    config: String,
                    service: String,
                    instance: Instance,
                    lease_id: String,
                    ttl_seconds: u32,
                ) -> ::core::result::Result<Vec<Entry>, String> {
                    sdk::report_panics();
                    let lease = $crate::Lease { id: &lease_id, ttl_seconds };
                    sdk::encode::<$scheme>(&config, &service, &instance, lease)
                }

                fn decode(
                    config: String,
                    service: String,
                    entry: Entry,
                ) -> ::core::result::Result<Vec<Instance>, String> {
                    sdk::report_panics();
                    sdk::decode::<$scheme>(&config, &service, &entry)
                }
            }

    sdk::key_scheme::export!(Exported with_types_in $crate::__private::key_scheme);
        };
    };
}

/// Compiles only for a key scheme.
#[doc(hidden)]
pub const fn is_key_scheme<K: KeyScheme>() {}

/// What `prefixes` of the component does; the same that `testing::prefixes` does in a test.
#[doc(hidden)]
pub fn prefixes<K: KeyScheme>(config: &str, service: &str) -> Result<Vec<String>, String> {
    K::prefixes(&Config::read(config, &K::DESCRIPTION)?, service)
}

/// What `encode` of the component does.
#[doc(hidden)]
pub fn encode<K: KeyScheme>(
    config: &str,
    service: &str,
    instance: &Instance,
    lease: Lease<'_>,
) -> Result<Vec<Entry>, String> {
    K::encode(&Config::read(config, &K::DESCRIPTION)?, service, instance, lease)
}

/// What `decode` of the component does.
#[doc(hidden)]
pub fn decode<K: KeyScheme>(config: &str, service: &str, entry: &Entry) -> Result<Vec<Instance>, String> {
    K::decode(&Config::read(config, &K::DESCRIPTION)?, service, entry)
}
