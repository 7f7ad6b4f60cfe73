//! Host names as a source: names that the snapshot wants in, addresses out, kept fresh.
//!
//! [`plan`] decides when to ask and what an answer means, in virtual time; [`DnsSource`] asks and
//! pushes. It is made of hickory-resolver, because TTLs, the two kinds of "no such name" and SRV
//! are not to be had from the operating system's resolver.
//!
//! Of an SRV answer the targets of the lowest priority that have addresses are used, each with its
//! port and its weight, and those of weight 0 only where the others have none.

mod early;
pub mod plan;
mod resolver;
mod srv;
mod wire;

pub use resolver::DnsSource;

#[cfg(test)]
mod tests;
