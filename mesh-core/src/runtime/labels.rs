//! Istio's standard labels of the metrics of both directions: the same names in every series.
//!
//! Of the other side is known what its identity and its endpoint say; the rest is `unknown`, as
//! Istio writes it. There are no clusters here.

use inmesh_pki::id::SpiffeId;

use crate::balance::Member;
use crate::model::{Transport, Workload};
use crate::snapshot::ServiceView;
use crate::telemetry::{LabelText, Labels, Series};

/// What is not known.
const UNKNOWN: &str = "unknown";
/// The canonical revision of what names none, as Istio has it.
const LATEST: &str = "latest";

/// One side of an exchange.
struct Side {
    workload: LabelText,
    namespace: LabelText,
    principal: LabelText,
    app: LabelText,
    version: LabelText,
    canonical_service: LabelText,
    canonical_revision: LabelText,
}

/// The Service that an exchange is for.
struct Destined {
    host: LabelText,
    name: LabelText,
    namespace: LabelText,
}

/// Exchanges of a workload that were for no known Service.
pub(super) fn without_service(workload: &Workload, principal: &LabelText) -> Series {
    let source = Side::local(workload, principal);
    let service = Destined {
        host: UNKNOWN.into(),
        name: UNKNOWN.into(),
        namespace: UNKNOWN.into(),
    };
    series("source", &source, &Side::unknown(), &service)
}

/// Exchanges of a workload that were for a Service, and were answered without an endpoint. `host` is
/// the Service's name, its namespace and more.
pub(super) fn without_endpoint(workload: &Workload, principal: &LabelText, host: &str) -> Series {
    let mut parts = host.split('.');
    let (name, namespace) = (parts.next(), parts.next());
    let service = Destined {
        host: known(host),
        name: known(name.unwrap_or_default()),
        namespace: known(namespace.unwrap_or_default()),
    };
    let destination = Side {
        namespace: service.namespace.clone(),
        canonical_service: service.name.clone(),
        ..Side::unknown()
    };
    let source = Side::local(workload, principal);
    series("source", &source, &destination, &service)
}

/// Exchanges of a workload with an endpoint of a Service.
pub(super) fn outbound(
    workload: &Workload,
    principal: &LabelText,
    service: &ServiceView,
    member: &Member,
) -> Series {
    let endpoint = &member.endpoint;
    let (name, namespace) = (service.name.name(), service.name.namespace().as_str());
    let destination = Side {
        workload: known(&endpoint.workload),
        namespace: namespace.into(),
        principal: match &endpoint.transport {
            Transport::Mesh { ids } => known(&ids.to_string()),
            _ => UNKNOWN.into(),
        },
        app: name.into(),
        version: known(&endpoint.version),
        canonical_service: name.into(),
        canonical_revision: or_latest(&endpoint.version),
    };
    let service = Destined {
        host: LabelText::shared(&service.host),
        name: name.into(),
        namespace: namespace.into(),
    };
    let source = Side::local(workload, principal);
    series("source", &source, &destination, &service)
}

/// Exchanges of a caller with a workload. Which Service the caller asked for is not known here: it is
/// called as the workload's canonical service.
pub(super) fn inbound(
    workload: &Workload,
    cluster_domain: &str,
    principal: &LabelText,
    caller: Option<&SpiffeId>,
) -> Series {
    let (namespace, account) = caller.and_then(SpiffeId::workload).unwrap_or_default();
    let source = Side {
        workload: known(account),
        namespace: known(namespace),
        principal: known(caller.map_or("", |id| id.as_str())),
        ..Side::unknown()
    };
    let (app, namespace) = (canonical(workload), workload.namespace.as_str());
    let service = Destined {
        host: known(&format!("{app}.{namespace}.svc.{cluster_domain}")),
        name: app.into(),
        namespace: namespace.into(),
    };
    let destination = Side::local(workload, principal);
    series("destination", &source, &destination, &service)
}

fn series(reporter: &str, source: &Side, destination: &Side, service: &Destined) -> Series {
    let mut labels: Labels = vec![("reporter", reporter.into())];
    labels.extend([
        ("source_workload", source.workload.clone()),
        ("source_workload_namespace", source.namespace.clone()),
        ("source_principal", source.principal.clone()),
        ("source_app", source.app.clone()),
        ("source_version", source.version.clone()),
        ("source_cluster", UNKNOWN.into()),
        ("source_canonical_service", source.canonical_service.clone()),
        (
            "source_canonical_revision",
            source.canonical_revision.clone(),
        ),
        ("destination_workload", destination.workload.clone()),
        (
            "destination_workload_namespace",
            destination.namespace.clone(),
        ),
        ("destination_principal", destination.principal.clone()),
        ("destination_app", destination.app.clone()),
        ("destination_version", destination.version.clone()),
        ("destination_cluster", UNKNOWN.into()),
        (
            "destination_canonical_service",
            destination.canonical_service.clone(),
        ),
        (
            "destination_canonical_revision",
            destination.canonical_revision.clone(),
        ),
        ("destination_service", service.host.clone()),
        ("destination_service_name", service.name.clone()),
        ("destination_service_namespace", service.namespace.clone()),
    ]);
    Series::new(labels)
}

// === impl Side ===

impl Side {
    fn local(workload: &Workload, principal: &LabelText) -> Self {
        let app = canonical(workload);
        let version = label(workload, "version").unwrap_or_default();
        let revision = label(workload, "service.istio.io/canonical-revision");
        let revision = revision.or_else(|| label(workload, "app.kubernetes.io/version"));
        Self {
            workload: (&*workload.name).into(),
            namespace: workload.namespace.as_str().into(),
            principal: principal.clone(),
            app: label(workload, "app").unwrap_or(app).into(),
            version: known(version),
            canonical_service: app.into(),
            canonical_revision: or_latest(revision.unwrap_or(version)),
        }
    }

    fn unknown() -> Self {
        let unknown = || UNKNOWN.into();
        Self {
            workload: unknown(),
            namespace: unknown(),
            principal: unknown(),
            app: unknown(),
            version: unknown(),
            canonical_service: unknown(),
            canonical_revision: unknown(),
        }
    }
}

/// The name of the service that a workload is a part of, by the labels that Istio looks at.
fn canonical(workload: &Workload) -> &str {
    const NAMES: [&str; 3] = [
        "service.istio.io/canonical-name",
        "app.kubernetes.io/name",
        "app",
    ];
    let mut named = NAMES.iter().filter_map(|name| label(workload, name));
    named.next().unwrap_or(&workload.name)
}

fn label<'w>(workload: &'w Workload, name: &str) -> Option<&'w str> {
    let value = workload.labels.get(name)?;
    (!value.is_empty()).then_some(value)
}

fn or_latest(revision: &str) -> LabelText {
    if revision.is_empty() {
        LATEST.into()
    } else {
        revision.into()
    }
}

/// A label's value, as Istio writes an empty one.
fn known(text: &str) -> LabelText {
    if text.is_empty() {
        UNKNOWN.into()
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use crate::authorize::DefaultAction;
    use crate::model::{AppProtocol, Endpoint, IdSet, Service, ServiceName, ServicePort, SourceId};
    use crate::snapshot::{Change, Object, Op, Settings, Snapshot};

    use super::*;

    /// The names that Istio documents as standard, but those of the exchange itself.
    const STANDARD: [&str; 20] = [
        "destination_app",
        "destination_canonical_revision",
        "destination_canonical_service",
        "destination_cluster",
        "destination_principal",
        "destination_service",
        "destination_service_name",
        "destination_service_namespace",
        "destination_version",
        "destination_workload",
        "destination_workload_namespace",
        "reporter",
        "source_app",
        "source_canonical_revision",
        "source_canonical_service",
        "source_cluster",
        "source_principal",
        "source_version",
        "source_workload",
        "source_workload_namespace",
    ];

    #[test]
    fn every_series_has_the_same_names() {
        let workload = Workload::new("shop", "web", "web").unwrap();
        let principal = LabelText::from("spiffe://lab/ns/shop/sa/web");
        let caller: SpiffeId = "spiffe://lab/ns/shop/sa/cart".parse().unwrap();
        let port = ServicePort::new("", 80, AppProtocol::Http1);
        let name = ServiceName::new(&workload.namespace, "cart").unwrap();
        let cart = Object::from(Service::new(name.clone(), vec![port]));
        let put = vec![Op::Put(cart, Vec::new())];
        let settings = Settings::new(workload.clone(), DefaultAction::Deny);
        let snapshot = Snapshot::new(settings);
        let snapshot = snapshot.apply(Change::replace(SourceId::new("test"), put));
        let view = snapshot.service(&name).unwrap();
        let ids = IdSet::new([caller.clone()]);
        let member = |transport| Member::new(Endpoint::new(([10, 0, 0, 1], 80).into(), transport));
        for series in [
            outbound(&workload, &principal, view, &member(Transport::Plain)),
            outbound(
                &workload,
                &principal,
                view,
                &member(Transport::Mesh { ids }),
            ),
            without_service(&workload, &principal),
            without_endpoint(&workload, &principal, "cart.shop.svc.cluster.local"),
            inbound(&workload, "cluster.local", &principal, None),
            inbound(&workload, "cluster.local", &principal, Some(&caller)),
        ] {
            let mut names: Vec<_> = series.labels().iter().map(|(name, _)| *name).collect();
            names.sort_unstable();
            assert_eq!(names, STANDARD);
        }
    }

    #[test]
    fn a_workload_is_called_as_its_labels_say() {
        let labelled = |labels: &[(&str, &str)]| {
            let mut workload = Workload::new("shop", "web-7d9f", "web").unwrap();
            let labels = labels.iter().map(|(k, v)| ((*k).into(), (*v).into()));
            workload.labels = labels.collect();
            let side = Side::local(&workload, &UNKNOWN.into());
            let text = |label: LabelText| label.with(str::to_owned);
            [side.canonical_service, side.canonical_revision, side.app].map(text)
        };
        assert_eq!(labelled(&[]), ["web-7d9f", "latest", "web-7d9f"]);
        let old = [("app", "web"), ("version", "v2")];
        assert_eq!(labelled(&old), ["web", "v2", "web"]);
        let new = [
            ("app", "a"),
            ("app.kubernetes.io/name", "web"),
            ("app.kubernetes.io/version", "3"),
        ];
        assert_eq!(labelled(&new), ["web", "3", "a"]);
    }
}
