//! Plans a Maglev table over the instances, by weight.

use test_guests::plain;
use waymark_plugin::{
    Config, Description, Endpoint, MAGLEV_TABLE_SIZE, Plan, Policy, Scope, export_policy, maglev_table,
};

struct Guest;

impl Policy for Guest {
    const DESCRIPTION: Description = plain("hash_table", "Plans a Maglev table over the instances, by weight.");

    fn build(_: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let names = endpoints.iter().map(|endpoint| (endpoint.id.as_str(), endpoint.weight));
        Ok(Plan::HashTable(maglev_table(names, MAGLEV_TABLE_SIZE)))
    }
}

export_policy!(Guest);
