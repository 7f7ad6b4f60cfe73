//! A Helm chart of what is installed: the same documents, with words of a template in the places of those
//! that differ from one cluster to the next. Pure.

use serde_json::{Value as Json, json};

use super::{ChartFile, Install, Words, access, definitions_of_ours, parts};
use crate::manifest::to_yaml;

/// A number in the place of a text, once it is written.
const REPLICAS: &str = "{{ .Values.replicas }}";

/// The files of the chart.
pub(super) fn files(install: &Install, version: &str) -> Vec<ChartFile> {
    let words = words();
    let file = |path, text| ChartFile { path, text };
    let definitions: Vec<Json> = definitions_of_ours().collect();
    let signer = template(&access::signer_objects(&words));
    vec![
        file("Chart.yaml", about(version)),
        file("values.yaml", values(install)),
        file("values.schema.json", schema()),
        file("crds/inmesh.yaml", template(&definitions)),
        file("templates/access.yaml", template(&access::objects(&words))),
        file(
            "templates/signer.yaml",
            format!("{{{{- if .Values.podCertificates }}}}\n{signer}{{{{- end }}}}\n"),
        ),
        file("templates/parts.yaml", template(&parts::objects(&words))),
        file(
            "templates/webhook.yaml",
            template(&[parts::webhook(&words)]),
        ),
    ]
}

/// The words of a template. None has a quote that a text of JSON would change.
fn words() -> Words {
    let value = |name: &str| format!("{{{{ .Values.{name} }}}}");
    Words {
        system: "{{ .Release.Namespace }}".into(),
        trust_domain: value("trustDomain"),
        trust_bundle: format!(
            "{}:{}",
            crate::layout::SIGNER.replace('/', ":"),
            "{{ .Values.trustDomain | replace `.` `-` | replace `_` `-` }}"
        ),
        image: value("image"),
        pull: value("imagePullPolicy"),
        peers: value("peers"),
        replicas: REPLICAS.into(),
        sign: value("podCertificates"),
    }
}

fn template(objects: &[Json]) -> String {
    let texts: Vec<_> = objects.iter().map(to_yaml).collect();
    texts
        .join("---\n")
        .replace(&format!("\"{REPLICAS}\""), REPLICAS)
}

fn about(version: &str) -> String {
    to_yaml(&json!({
        "apiVersion": "v2",
        "name": "inmesh",
        "description": "The inmesh service mesh: its CA, its control plane and the webhook that puts it beside Pods",
        "type": "application",
        "version": version,
        "appVersion": version,
        "kubeVersion": ">=1.33.0-0",
    }))
}

/// The values, each with what it says.
fn values(install: &Install) -> String {
    let words = install.words();
    let quoted = |text: &str| Json::from(text).to_string();
    format!(
        "# The image of the mesh, with the binary at /usr/local/bin/mesh.
image: {}
# When it is pulled: Always, IfNotPresent or Never.
imagePullPolicy: {}
# The trust domain of service accounts. It cannot be changed later: every identity is of one.
trustDomain: {}
# How many replicas of the CA run, and how many of the control plane.
replicas: {}
# What a Pod takes that does not say it: strict refuses plaintext, permissive takes it too.
peers: {}
# Whether the CA signs Pod certificates and signing requests of the cluster.
podCertificates: {}
",
        quoted(&words.image),
        quoted(&words.pull),
        quoted(&words.trust_domain),
        words.replicas,
        quoted(&words.peers),
        words.sign,
    )
}

/// What values may be: they stand within texts, where a quote would end these.
fn schema() -> String {
    let schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": false,
        "required": ["image", "imagePullPolicy", "peers", "podCertificates", "replicas", "trustDomain"],
        "properties": {
            // What Helm adds by itself.
            "global": {"type": "object"},
            "image": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._:/@-]*$", "maxLength": 512},
            "imagePullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
            "peers": {"enum": ["permissive", "strict"]},
            "podCertificates": {"type": "boolean"},
            "replicas": {"type": "integer", "minimum": 1, "maximum": 100},
            "trustDomain": {"type": "string", "pattern": "^[a-z0-9._-]+$", "maxLength": 255},
        },
    });
    let text = serde_json::to_string_pretty(&schema).expect("a JSON value is text");
    format!("{text}\n")
}
