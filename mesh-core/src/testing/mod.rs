//! Whole worlds for tests and examples: a CA, identities, and the objects that join them.
//!
//! Everything is real (certificates, sockets, the runtime) and in memory or on loopback.

mod world;

pub use world::World;
