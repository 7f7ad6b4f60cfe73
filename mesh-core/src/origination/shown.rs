//! Origination as an operator reads it, in the words of BackendTLSPolicy.

use inmesh_pki::tls::AltName;
use serde_json::{Map, Value, json};

use super::Origination;

impl Origination {
    /// `validation` of the policy, with the roots that it has come to.
    pub(crate) fn fields(&self) -> Map<String, Value> {
        let names = self.names.iter().map(|name| match name {
            AltName::Dns(name) => json!({ "type": "Hostname", "hostname": name.to_str() }),
            AltName::Uri(uri) => json!({ "type": "URI", "uri": **uri }),
            _ => Value::Null,
        });
        let names: Vec<_> = names.collect();
        let mut fields = Map::new();
        let mut add = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        add("hostname", (*self.hostname).into());
        if !names.is_empty() {
            add("subjectAltNames", names.into());
        }
        add("roots", self.roots.to_string().into());
        fields
    }
}
