//! The data plane over real sockets on loopback, one file for each area.

mod crowds;
mod cuts;
mod deadlines;
mod drain;
mod early;
mod fields;
mod flows;
mod hostile;
mod http;
mod identity;
mod live;
mod mesh;
mod mirrors;
mod outcomes;
mod outside;
mod protocols;
mod repeats;
mod retries;
mod rooms;
mod routes;
mod sources;
mod streams;
mod support;
mod tunnels;
mod whole;
mod workloads;
