//! `healthCheck`: how endpoints are checked that no orchestrator watches.
//!
//! The words are those of Kuma's MeshHealthCheck.

use std::time::Duration;

use inmesh_core::balance::{CheckKind, CheckPolicy};

use super::super::strict::{Fields, Value};
use super::super::text;

/// The longest name of a service, in bytes: its length is one byte on the wire.
const SERVICE_BYTES: usize = 127;
/// The most statuses that are expected.
const STATUSES: usize = 32;

pub(super) fn read(value: &Value<'_>) -> Option<CheckPolicy> {
    value.object(|fields| {
        let (http, tcp) = (fields.get("http"), fields.get("tcp"));
        let grpc = fields.get("grpc");
        // Each is read, for its problems.
        let kinds = [
            http.map(|value| http_check(&value)),
            tcp.map(|value| value.object(|_| Some(CheckKind::Tcp))),
            grpc.map(|value| grpc_check(&value)),
        ];
        let mut kinds: Vec<_> = kinds.into_iter().flatten().collect();
        let (interval, timeout) = (time(fields, "interval"), time(fields, "timeout"));
        let unhealthy = count(fields, "unhealthyThreshold");
        let healthy = count(fields, "healthyThreshold");
        let (Some(kind), true) = (kinds.pop(), kinds.is_empty()) else {
            value.refuse("has one of http, tcp and grpc");
            return None;
        };
        let mut policy = CheckPolicy::new(kind?);
        policy.interval = interval?.unwrap_or(policy.interval);
        policy.timeout = timeout?.unwrap_or(policy.timeout);
        policy.unhealthy = unhealthy?.unwrap_or(policy.unhealthy);
        policy.healthy = healthy?.unwrap_or(policy.healthy);
        value.check(policy.check())?;
        Some(policy)
    })
}

fn http_check(value: &Value<'_>) -> Option<CheckKind> {
    value.object(|fields| {
        let (path, statuses) = (fields.get("path"), fields.get("expectedStatuses"));
        let path = match path {
            Some(path) => path.text(),
            None => Some("/"),
        };
        let statuses = match statuses {
            Some(list) => {
                let items = list.list_of(STATUSES)?;
                let read: Vec<_> = items.iter().map(Value::integer).collect();
                read.into_iter().collect()
            }
            None => Some([200].into()),
        };
        Some(CheckKind::Http(path?.into(), statuses?))
    })
}

fn grpc_check(value: &Value<'_>) -> Option<CheckKind> {
    value.object(|fields| {
        let name = match fields.get("serviceName") {
            Some(name) => {
                let text = name.text()?;
                if text.len() > SERVICE_BYTES {
                    name.refuse(format_args!("is longer than {SERVICE_BYTES} bytes"));
                }
                text
            }
            None => "",
        };
        Some(CheckKind::Grpc(name.into()))
    })
}

fn time(fields: &mut Fields<'_>, name: &str) -> Option<Option<Duration>> {
    match fields.get(name) {
        Some(value) => value.check(text::duration(value.text()?)).map(Some),
        None => Some(None),
    }
}

fn count(fields: &mut Fields<'_>, name: &str) -> Option<Option<u32>> {
    match fields.get(name) {
        Some(value) => value.integer_in(1, 100).map(Some),
        None => Some(None),
    }
}
