//! Waymark.

pub mod embedded;
