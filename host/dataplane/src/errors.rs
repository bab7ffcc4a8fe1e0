//! Why something did not work: an attempt to connect to an endpoint (`connecting`), and a call that
//! no instance answered, with what its caller is told (`failure`). How connections and streams of
//! HTTP/2 end is in `http2`.

pub(crate) mod connecting;
pub(crate) mod failure;
pub(crate) mod http2;
