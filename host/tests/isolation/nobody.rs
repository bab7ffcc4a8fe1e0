//! What the machine itself does to the figures.

use tokio::time::sleep;

use super::{
    Scale,
    arena::{Arena, Bounds, Verdict},
    table::Row,
};

/// The bystander calls a second time, and nobody attacks: by so much two runs differ.
pub(crate) async fn nobody_attacks(scale: Scale) -> Result<Row, String> {
    let arena = Arena::with(&[]).await;
    arena
        .attacked(scale, Bounds::mib(8), async |_| {
            sleep(scale.length).await;
            Ok(Verdict::none())
        })
        .await
}
