//! The plan in virtual time, the driver with a script, the wire with a scripted name server.

mod driver;
mod planned;
mod scripted;

use std::net::IpAddr;

use inmesh_core::model::{Host, HostAddress};

fn address(text: &str) -> HostAddress {
    let ip: IpAddr = text.parse().expect("an address");
    HostAddress::new(ip)
}

fn addresses(texts: &[&str]) -> Vec<HostAddress> {
    texts.iter().map(|text| address(text)).collect()
}

fn host(name: &str) -> Host {
    Host::Name {
        name: name.into(),
        srv: None,
    }
}
