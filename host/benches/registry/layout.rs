//! The services that the benchmark fills a registry with.

use std::fmt;

use anyhow::Context as _;
use etcd_client::{Client, Txn, TxnOp};

/// So many services with so many endpoints each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) services: usize,
    pub(crate) each: usize,
}

impl Layout {
    pub(crate) fn endpoints(self) -> usize {
        self.services * self.each
    }

    /// A service's name.
    pub(crate) fn service(n: usize) -> String {
        format!("bench/service-{n:05}")
    }

    /// An entry as etcd's naming package writes it, with what Waymark adds.
    pub(crate) fn entry(service: usize, instance: usize) -> (String, String) {
        let address = format!("10.{}.{}.{}:{}", instance % 250, service / 250, service % 250, 8080 + instance / 250);
        let zone = ["a", "b", "c"][instance % 3];
        let value =
            format!(r#"{{"Op":0,"Addr":"{address}","Metadata":{{"weight":{},"zone":"{zone}"}}}}"#, 1 + instance % 3);
        (format!("{}/{address}", Self::service(service)), value)
    }

    /// Writes everything.
    pub(crate) async fn fill(self, url: &str) -> anyhow::Result<()> {
        let client = Client::connect([url], None).await?;
        let entries = (0..self.services).flat_map(|s| (0..self.each).map(move |n| Self::entry(s, n)));
        let mut entries = entries.map(|(key, value)| TxnOp::put(key, value, None)).peekable();
        while entries.peek().is_some() {
            let batch: Vec<_> = entries.by_ref().take(128).collect();
            client.kv_client().txn(Txn::new().and_then(batch)).await.context("cannot fill the registry")?;
        }
        Ok(())
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} endpoints in {} services", self.endpoints(), self.services)
    }
}
