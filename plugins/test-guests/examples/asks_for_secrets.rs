//! Imports an interface that no host grants: `foreign/asks_for_secrets.wit` says which.

use test_guests::plain;
use waymark_plugin::{Config, Description, Endpoint, Plan, Policy, Scope, export_policy};

struct Guest;

#[cfg(target_arch = "wasm32")]
fn secret() -> u32 {
    #[link(wasm_import_module = "acme:vault/secrets@1.0.0")]
    unsafe extern "C" {
        #[link_name = "secret"]
        fn import() -> u32;
    }
    // SAFETY: a scalar goes in and out, as the WIT of the import says.
    unsafe { import() }
}

#[cfg(not(target_arch = "wasm32"))]
fn secret() -> u32 {
    0
}

impl Policy for Guest {
    const DESCRIPTION: Description = plain("asks_for_secrets", "Imports an interface that no host grants.");

    fn build(_: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let first = u32::try_from(endpoints.len()).ok().and_then(|n| secret().checked_rem(n));
        Ok(Plan::Rotation(first.into_iter().collect()))
    }
}

export_policy!(Guest);
