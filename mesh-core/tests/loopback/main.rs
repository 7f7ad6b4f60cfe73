//! The data plane over real sockets on loopback, one file for each area.

mod drain;
mod hostile;
mod http;
mod identity;
mod live;
mod mesh;
mod outside;
mod routes;
mod support;
mod tunnels;
