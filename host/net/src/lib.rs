//! How endpoints are reached, before a call is: the addresses that their names have, whether those
//! may be called, and whether the instance behind them is healthy.
#![forbid(unsafe_code)]

pub mod address_filter;
pub mod health;
pub mod resolve;
