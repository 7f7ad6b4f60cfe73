//! Documents under test: what would become of requests, in milliseconds and without a socket.
//!
//! In come documents and questions, out come explanations by the functions that decide live requests
//! ([`inmesh_core::explain`]).

mod world;

pub use world::World;
