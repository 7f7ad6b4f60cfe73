//! What a running agent has seen of the ports that a folder leaves undeclared.

use std::net::SocketAddr;

use inmesh_core::model::{AppProtocol, ObjectKey};
use inmesh_core::runtime::Listen;
use inmesh_core::snapshot::{Object, Op, Problem};
use inmesh_discovery::manifest::Merged;
use serde_json::Value;

use crate::agent::{Agent, Listener};

/// A warning for each undeclared port whose server has spoken first.
pub(super) fn first_speakers(status: &Value, merged: &Merged) -> Vec<(ObjectKey, Problem)> {
    let has_spoken = |service: &str, port: u16| {
        let mut all = status["services"].as_array().into_iter().flatten();
        all.any(|s| s["server_first"] == true && s["service"] == service && s["port"] == port)
    };
    let mut found = Vec::new();
    for op in &merged.change.ops {
        let Op::Put(object @ Object::Service(service), _) = op else {
            continue;
        };
        let name = service.name.to_string();
        for port in &service.ports {
            if port.protocol != AppProtocol::Detect || !has_spoken(&name, port.port) {
                continue;
            }
            let key = object.key();
            let message = format!(
                "a server of port {} has spoken first, which every agent has to find out anew; \
                 declare the port with `appProtocol: tcp`",
                port.port
            );
            let warning = Problem::warning("spec.ports", message);
            let warning = match merged.places.get(&key) {
                Some(place) => warning.at(place.clone()),
                None => warning,
            };
            found.push((key, warning));
        }
    }
    found
}

/// A warning for each undeclared inbound listener of an agent whose application has spoken first.
pub(super) fn first_listeners(status: &Value, agent: &Agent) -> Vec<Problem> {
    let has_spoken = |bind: SocketAddr| {
        let bind = bind.to_string();
        let mut all = status["listeners"].as_array().into_iter().flatten();
        all.any(|l| l["server_first"] == true && l["address"] == bind)
    };
    let listeners = agent.listeners.iter().enumerate();
    let undeclared = listeners.filter(|(_, listener)| match &listener.listen {
        Listen::Inbound(to) => to.protocol == AppProtocol::Detect && has_spoken(listener.bind),
        _ => false,
    });
    let warning = |(n, listener): (usize, &Listener)| {
        let field = format!("listeners[{n}].inbound");
        let message = format!(
            "the application behind {} has spoken first, which every agent has to find out anew; declare \
             the listener with `appProtocol: tcp`",
            listener.bind
        );
        let place = agent.document.place(&field);
        Problem::warning(field, message).at(place)
    };
    undeclared.map(warning).collect()
}

#[cfg(test)]
mod tests {
    use inmesh_core::model::{Namespace, SourceId};
    use inmesh_discovery::manifest::{Content, Defaults, Folder};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_port_that_was_seen_to_speak_first_is_named_unless_it_is_declared() {
        let shop = Namespace::new("shop").expect("a name");
        let mut folder = Folder::new(SourceId::new("file:mesh"), Defaults::new(shop));
        let text = "{}\n---\n{apiVersion: v1, kind: Service, metadata: {name: db}, spec: {ports: [\
                    {name: a, port: 3306}, {name: b, port: 4222, appProtocol: tcp}, \
                    {name: c, port: 25}]}}";
        let merged = folder.merge([("db.yaml".into(), Content::Text(text.into()))]);
        let port = |port: u16, first: bool| json!({"service": "db.shop", "port": port, "server_first": first});
        let other = json!({"service": "db.other", "port": 25, "server_first": true});
        let services = [port(3306, true), port(4222, true), port(25, false), other];
        let found = first_speakers(&json!({ "services": services }), &merged);
        let [(key, warning)] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(&*key.name, "db");
        assert!(warning.message.contains("port 3306"), "{}", warning.message);
        let place = warning.location.as_ref().expect("a place");
        assert_eq!((&*place.file, place.line), ("db.yaml", 3));
        assert!(first_speakers(&json!({}), &merged).is_empty());
    }

    #[test]
    fn a_listener_whose_application_was_seen_to_speak_first_is_named_unless_it_is_declared() {
        const AGENT: &str = "apiVersion: inmesh.dev/v1alpha1
kind: Agent
workload: {namespace: shop, name: db, serviceAccount: db}
defaultAction: deny
peers: permissive
identity: {developmentCA: {dir: ca}}
listeners:
- bind: 127.0.0.1:8025
  inbound: {app: '127.0.0.1:25'}
- bind: 127.0.0.1:8026
  inbound: {app: '127.0.0.1:26', appProtocol: tcp}
- bind: 127.0.0.1:8027
  inbound: {app: '127.0.0.1:27'}
";
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("agent.yaml"), AGENT).expect("it is written");
        let agent = match crate::agent::find(dir.path()).expect("it is read") {
            crate::agent::Found::Agent(agent) => agent,
            other => panic!("no agent: {other:?}"),
        };
        let seen = |port: u16, first: bool| json!({"address": format!("127.0.0.1:{port}"), "server_first": first});
        let status = json!({"listeners": [seen(8025, true), seen(8026, true), seen(8027, false)]});
        let found = first_listeners(&status, &agent);
        let [warning] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(warning.field, "listeners[0].inbound");
        assert!(warning.message.contains("appProtocol: tcp"), "{warning}");
        assert_eq!(warning.location.as_ref().map(|place| place.line), Some(9));
        assert!(first_listeners(&json!({}), &agent).is_empty());
    }
}
