//! Host names as a source: names that the snapshot wants in, addresses out, kept fresh.
//!
//! [`plan`] decides when to ask and what an answer means, in virtual time; [`DnsSource`] asks and
//! pushes. It is made of hickory-resolver, because TTLs, the two kinds of "no such name" and SRV
//! are not to be had from the operating system's resolver.
//!
//! Of an SRV answer the targets of the lowest priority are used, each with its port; weights are
//! not looked at.

pub mod plan;
mod resolver;
mod wire;

pub use resolver::DnsSource;

#[cfg(test)]
mod tests;
