//! The plan in virtual time, the driver with a script, the wire with a scripted name server.

mod driver;
mod planned;
mod scripted;

use std::net::IpAddr;

use inmesh_core::model::Host;

use super::plan::Address;

fn address(text: &str) -> Address {
    let ip: IpAddr = text.parse().expect("an address");
    (ip, None)
}

fn addresses(texts: &[&str]) -> Vec<Address> {
    texts.iter().map(|text| address(text)).collect()
}

fn host(name: &str) -> Host {
    Host::Name {
        name: name.into(),
        srv: None,
    }
}
