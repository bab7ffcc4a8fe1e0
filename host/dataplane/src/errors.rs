//! Why something did not work: an attempt to connect to an endpoint (`connecting`), and a call that
//! no instance answered, with what its caller is told (`failure`).

pub(crate) mod connecting;
pub(crate) mod failure;
