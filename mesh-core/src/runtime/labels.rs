//! Istio's labels of the metrics of both directions.

use std::sync::Arc;

use inmesh_pki::id::SpiffeId;

use crate::balance::Member;
use crate::model::{Transport, Workload};
use crate::snapshot::ServiceView;
use crate::telemetry::{LabelText, Series};

/// A set of labels.
type Labels = Vec<(&'static str, LabelText)>;

/// Exchanges of a workload that were answered without an endpoint.
pub(super) fn answered_locally(workload: &Workload, principal: &str) -> Series {
    let mut labels = source(workload, principal);
    labels.extend([
        ("destination_workload", known("")),
        ("destination_service", known("")),
    ]);
    Series::new(labels)
}

/// Exchanges of a workload with an endpoint of a Service.
pub(super) fn outbound(
    workload: &Workload,
    principal: &str,
    service: &ServiceView,
    member: &Member,
) -> Series {
    let endpoint = &member.endpoint;
    let destination = match &endpoint.transport {
        Transport::Mesh { ids } => ids.to_string(),
        _ => "unknown".to_owned(),
    };
    let namespace = service.name.namespace().as_str();
    let mut labels = source(workload, principal);
    labels.extend([
        ("destination_workload", known(&endpoint.workload)),
        ("destination_workload_namespace", namespace.into()),
        ("destination_principal", destination.as_str().into()),
        ("destination_version", known(&endpoint.version)),
        ("destination_service", LabelText(Arc::clone(&service.host))),
        ("destination_service_name", service.name.name().into()),
        ("destination_service_namespace", namespace.into()),
    ]);
    Series::new(labels)
}

/// Exchanges of a caller with a workload.
pub(super) fn inbound(workload: &Workload, principal: &str, caller: Option<&SpiffeId>) -> Series {
    let (namespace, account) = caller.and_then(SpiffeId::workload).unwrap_or_default();
    let app = app_of(workload);
    let caller = caller.map_or("", |id| id.as_str());
    Series::new(vec![
        ("reporter", "destination".into()),
        ("source_principal", known(caller)),
        ("source_workload", known(account)),
        ("source_workload_namespace", known(namespace)),
        ("destination_workload", (&*workload.name).into()),
        (
            "destination_workload_namespace",
            workload.namespace.as_str().into(),
        ),
        ("destination_principal", known(principal)),
        ("destination_app", app.into()),
        ("destination_version", version_of(workload)),
        ("destination_canonical_service", app.into()),
        ("destination_service_name", app.into()),
        (
            "destination_service_namespace",
            workload.namespace.as_str().into(),
        ),
    ])
}

fn source(workload: &Workload, principal: &str) -> Labels {
    let app = app_of(workload);
    vec![
        ("reporter", "source".into()),
        ("source_workload", (&*workload.name).into()),
        (
            "source_workload_namespace",
            workload.namespace.as_str().into(),
        ),
        ("source_principal", known(principal)),
        ("source_app", app.into()),
        ("source_version", version_of(workload)),
        ("source_canonical_service", app.into()),
    ]
}

fn app_of(workload: &Workload) -> &str {
    workload.labels.get("app").unwrap_or(&workload.name)
}

fn version_of(workload: &Workload) -> LabelText {
    known(workload.labels.get("version").map_or("", |v| v))
}

/// A label's value, as Istio writes an empty one.
fn known(text: &str) -> LabelText {
    if text.is_empty() {
        "unknown".into()
    } else {
        text.into()
    }
}
