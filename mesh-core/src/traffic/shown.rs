//! What is asked of requests as an operator reads it: in the words of its documents, each block with
//! the object that it comes from.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde::ser::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::{
    Abort, CookieLifetime, FaultInjection, Percentage, SessionPersistence, SessionType, Traffic,
    TrafficSplit,
};
use crate::balance::{
    CheckKind, CheckPolicy, ConsistentHash, EjectPolicy, HashKey, HashTable, Nearness,
    RequestLimits, SlowStart, Strategy, Volume,
};
use crate::model::{Block, ObjectKey, ProxyVersion};
use crate::origination::Origination;
use crate::retry::{BudgetPolicy, HedgePolicy, RetryPolicy};
use crate::route::Timeouts;

/// A block that can be shown.
pub(crate) trait Shown {
    /// Its fields, without where it comes from.
    fn fields(&self) -> Map<String, Value>;
}

impl<T: Shown> Shown for Arc<T> {
    fn fields(&self) -> Map<String, Value> {
        (**self).fields()
    }
}

/// A block with the object that it comes from.
pub(crate) fn block<T: Shown + ?Sized>(value: &T, from: Option<&ObjectKey>) -> Value {
    let mut fields = value.fields();
    if let Some(from) = from {
        fields.insert("from".into(), from.to_string().into());
    }
    Value::Object(fields)
}

fn millis(span: Duration) -> Value {
    format!("{}ms", span.as_millis()).into()
}

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

impl Shown for Timeouts {
    fn fields(&self) -> Map<String, Value> {
        let limits = [
            ("request", self.request),
            ("backendRequest", self.backend_request),
            ("streamIdle", self.stream_idle),
        ];
        let written = limits
            .into_iter()
            .filter_map(|(name, limit)| Some((name.to_owned(), millis(limit?))));
        written.collect()
    }
}

impl Shown for RetryPolicy {
    fn fields(&self) -> Map<String, Value> {
        let codes: Vec<_> = self.statuses().iter().map(StatusCode::as_u16).collect();
        fields([
            ("attempts", self.repeats().into()),
            ("codes", codes.into()),
            ("grpcCodes", self.grpc_codes().collect::<Vec<_>>().into()),
            ("backoff", millis(self.backoff())),
        ])
    }
}

impl Shown for HedgePolicy {
    fn fields(&self) -> Map<String, Value> {
        let codes: Vec<_> = self.statuses().iter().map(StatusCode::as_u16).collect();
        fields([
            ("maxAttempts", self.attempts().into()),
            ("hedgingDelay", millis(self.delay())),
            ("codes", codes.into()),
            ("grpc", self.is_for_grpc().into()),
            ("grpcCodes", self.grpc_codes().collect::<Vec<_>>().into()),
        ])
    }
}

impl Shown for BudgetPolicy {
    fn fields(&self) -> Map<String, Value> {
        let (percent, interval) = self.share();
        let (count, of) = self.free();
        fields([
            (
                "budget",
                json!({ "percent": percent, "interval": millis(interval) }),
            ),
            (
                "minRetryRate",
                json!({ "count": count, "interval": millis(of) }),
            ),
        ])
    }
}

impl Shown for Strategy {
    fn fields(&self) -> Map<String, Value> {
        let simple = match self {
            Self::ConsistentHash(hash) => {
                return fields([("consistentHash", Value::Object(hash.fields()))]);
            }
            Self::LeastRequest => "LEAST_REQUEST",
            Self::PeakEwma => "PEAK_EWMA",
            Self::Random => "RANDOM",
            Self::RoundRobin => "ROUND_ROBIN",
        };
        fields([("simple", simple.into())])
    }
}

impl Shown for ConsistentHash {
    fn fields(&self) -> Map<String, Value> {
        let mut fields = self.key().fields();
        let table = match self.table() {
            HashTable::Maglev(size) => Some(("maglev", json!({ "tableSize": size.slots() }))),
            HashTable::Rendezvous => None,
            HashTable::Ring(size) => {
                Some(("ringHash", json!({ "minimumRingSize": size.points() })))
            }
        };
        fields.extend(table.map(|(name, of)| (name.to_owned(), of)));
        fields
    }
}

impl Shown for HashKey {
    fn fields(&self) -> Map<String, Value> {
        match self {
            Self::Cookie(cookie) => {
                let mut of = Map::from_iter([("name".to_owned(), cookie.name().into())]);
                of.extend(cookie.path().map(|path| ("path".into(), path.into())));
                of.extend(cookie.ttl().map(|ttl| ("ttl".into(), millis(ttl))));
                fields([("httpCookie", Value::Object(of))])
            }
            Self::Header(name) => fields([("httpHeaderName", name.as_str().into())]),
            Self::QueryParameter(name) => fields([("httpQueryParameterName", (**name).into())]),
            Self::SourceIp => fields([("useSourceIp", true.into())]),
        }
    }
}

impl Shown for TrafficSplit {
    fn fields(&self) -> Map<String, Value> {
        fields([("consistentHash", Value::Object(self.key().fields()))])
    }
}

impl Shown for SessionPersistence {
    fn fields(&self) -> Map<String, Value> {
        let (absolute, idle) = self.timeouts();
        let name = self.name().map(|name| ("sessionName", name.into()));
        let limits = [
            absolute.map(|limit| ("absoluteTimeout", millis(limit))),
            idle.map(|limit| ("idleTimeout", millis(limit))),
        ];
        let by = match self.by() {
            SessionType::Header => vec![("type", "Header".into())],
            SessionType::Cookie(lifetime) => {
                let lifetime = match lifetime {
                    CookieLifetime::Permanent => "Permanent",
                    CookieLifetime::Session => "Session",
                };
                let config = json!({ "lifetimeType": lifetime });
                vec![("type", "Cookie".into()), ("cookieConfig", config)]
            }
        };
        let all = name
            .into_iter()
            .chain(by)
            .chain(limits.into_iter().flatten());
        all.map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

impl Shown for SlowStart {
    fn fields(&self) -> Map<String, Value> {
        fields([
            ("duration", millis(self.window())),
            ("minimumPercent", self.minimum_percent().into()),
            ("aggression", self.aggression().into()),
        ])
    }
}

impl Shown for Nearness {
    fn fields(&self) -> Map<String, Value> {
        let (name, of) = match self {
            Self::Anywhere => ("localityLbSetting", json!({ "enabled": false })),
            Self::Prefer(by) => {
                let labels: Vec<_> = by.levels().iter().map(|level| level.label()).collect();
                ("localityLbSetting", json!({ "failoverPriority": labels }))
            }
            Self::ZoneAware(by) => {
                let mut of = json!({ "minClusterSize": by.fewest() });
                let callers = by.callers().iter();
                let callers =
                    callers.map(|(zone, callers)| (String::from(&**zone), (*callers).into()));
                let callers: Map<_, _> = callers.collect();
                if !callers.is_empty() {
                    of["callers"] = callers.into();
                }
                ("zoneAwareLbSetting", of)
            }
        };
        fields([(name, of)])
    }
}

impl Shown for CheckPolicy {
    fn fields(&self) -> Map<String, Value> {
        let (name, kind) = match &self.kind {
            CheckKind::Grpc(service) => ("grpc", json!({ "serviceName": **service })),
            CheckKind::Http(path, statuses) => (
                "http",
                json!({ "path": **path, "expectedStatuses": statuses }),
            ),
            CheckKind::Tcp => ("tcp", json!({})),
        };
        fields([
            (name, kind),
            ("interval", millis(self.interval)),
            ("timeout", millis(self.timeout)),
            ("unhealthyThreshold", self.unhealthy.into()),
            ("healthyThreshold", self.healthy.into()),
        ])
    }
}

impl Shown for RequestLimits {
    fn fields(&self) -> Map<String, Value> {
        let mut http = fields([
            ("maxRequestsPerEndpoint", self.endpoint().into()),
            ("http1MaxPendingRequests", self.pending().into()),
        ]);
        let mut tcp = fields([("maxConnections", self.connections().into())]);
        let all = self.service();
        http.extend(all.map(|most| ("http2MaxRequests".to_owned(), most.into())));
        let idle = self.idle_timeout().map(millis);
        http.extend(idle.map(|time| ("idleTimeout".to_owned(), time)));
        let connect = self.connect_timeout().map(millis);
        tcp.extend(connect.map(|time| ("connectTimeout".to_owned(), time)));
        fields([("http", http.into()), ("tcp", tcp.into())])
    }
}

impl Shown for EjectPolicy {
    fn fields(&self) -> Map<String, Value> {
        let mut fields = fields([
            ("consecutive5xxErrors", self.consecutive.into()),
            ("consecutiveGatewayErrors", self.gateway.into()),
            (
                "splitExternalLocalOriginErrors",
                self.local.is_some().into(),
            ),
            ("interval", millis(self.interval)),
            ("baseEjectionTime", millis(self.base)),
            ("maxEjectionTime", millis(self.longest)),
            ("maxEjectionPercent", self.percent.into()),
            ("minHealthPercent", self.panic_percent.into()),
        ]);
        let mut add = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        if let Some(local) = self.local {
            add("consecutiveLocalOriginFailures", local.into());
        }
        let volume = |name: &str, value: u32, of: Volume| json!({ name: value, "minimumHosts": of.hosts, "requestVolume": of.requests });
        if let Some(by) = self.success_rate {
            let shown = volume("stdevFactor", by.factor(), by.volume());
            add("successRateEjection", shown);
        }
        if let Some(by) = self.failure_percentage {
            let shown = volume("threshold", by.threshold().into(), by.volume());
            add("failurePercentageEjection", shown);
        }
        fields
    }
}

impl Shown for ProxyVersion {
    fn fields(&self) -> Map<String, Value> {
        fields([("version", self.to_string().into())])
    }
}

impl Shown for FaultInjection {
    fn fields(&self) -> Map<String, Value> {
        let percentage = |of: Percentage| json!({ "value": of.get() });
        let delay = self.delay().map(|(of, wait)| {
            let shown = json!({ "percentage": percentage(of), "fixedDelay": millis(wait) });
            ("delay".to_owned(), shown)
        });
        let abort = self.abort().map(|(of, abort)| {
            let (name, code) = match abort {
                Abort::Http(status) => ("httpStatus", status.as_u16()),
                Abort::Grpc(code) => ("grpcStatus", code.into()),
            };
            let shown = json!({ "percentage": percentage(of), name: code });
            ("abort".to_owned(), shown)
        });
        let bandwidth = self.bandwidth().map(|(of, bandwidth)| {
            let limit = format!("{}kbps", bandwidth.bits() / 1_000);
            let shown = json!({ "percentage": percentage(of), "limit": limit });
            ("responseBandwidth".to_owned(), shown)
        });
        delay.into_iter().chain(abort).chain(bandwidth).collect()
    }
}

impl Shown for Origination {
    fn fields(&self) -> Map<String, Value> {
        Self::fields(self)
    }
}

impl Serialize for Traffic {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let of_requests = [
            self.timeouts.as_ref().map(|block| part("timeouts", block)),
            self.retry.as_ref().map(|block| part("retry", block)),
            self.hedge.as_ref().map(|block| part("hedge", block)),
            self.fault.as_ref().map(|block| part("fault", block)),
            { self.session.as_ref() }.map(|block| part("sessionPersistence", block)),
        ];
        let parts = self.of_service().into_iter();
        let parts = parts.chain(of_requests.into_iter().flatten());
        out.collect_map(parts.map(|(name, value, from)| (name, block(value, from))))
    }
}

/// A block under its name, with the object that it comes from.
pub(crate) type Part<'t> = (&'static str, &'t dyn Shown, Option<&'t ObjectKey>);

/// A block under its name.
pub(crate) fn part<'t, T: Shown>(name: &'static str, block: &'t Block<T>) -> Part<'t> {
    (name, &block.value, block.from.as_ref())
}

impl Traffic {
    /// What is asked of all requests to a port together, whatever their routes say.
    pub(crate) fn of_service(&self) -> Vec<Part<'_>> {
        let blocks = [
            Some(part("loadBalancer", &self.strategy)),
            self.warmup.as_ref().map(|block| part("warmup", block)),
            self.nearness.as_ref().map(|block| part("locality", block)),
            Some(part("connectionPool", &self.limits)),
            Some(part("outlierDetection", &self.eject)),
            self.check.as_ref().map(|block| part("healthCheck", block)),
            Some(part("retryConstraint", &self.budget)),
            self.tls.as_ref().map(|block| part("tls", block)),
            { self.proxy_protocol.as_ref() }.map(|block| part("proxyProtocol", block)),
        ];
        blocks.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::balance::{FailurePercentage, HashCookie, RingSize, SuccessRate, TableSize};
    use crate::model::{Kind, Namespace};

    #[test]
    fn each_strategy_is_shown_in_the_words_of_its_document() {
        let hour = Some(Duration::from_secs(3_600));
        let stay = HashCookie::new("stay", Some("/"), hour).unwrap();
        let bare = HashCookie::new("id", None, None).unwrap();
        let (ring, maglev) = (RingSize::new(2_048).unwrap(), TableSize::default());
        for (strategy, shown) in [
            (Strategy::PeakEwma, json!({"simple": "PEAK_EWMA"})),
            (Strategy::Random, json!({"simple": "RANDOM"})),
            (Strategy::RoundRobin, json!({"simple": "ROUND_ROBIN"})),
            (
                Strategy::ConsistentHash(
                    ConsistentHash::by(HashKey::Cookie(stay)).through(HashTable::Maglev(maglev)),
                ),
                json!({"consistentHash": {
                    "httpCookie": {"name": "stay", "path": "/", "ttl": "3600000ms"},
                    "maglev": {"tableSize": 65_537},
                }}),
            ),
            (
                Strategy::ConsistentHash(ConsistentHash::by(HashKey::Cookie(bare))),
                json!({"consistentHash": {"httpCookie": {"name": "id"}}}),
            ),
            (
                Strategy::ConsistentHash(
                    ConsistentHash::by(HashKey::SourceIp).through(HashTable::Ring(ring)),
                ),
                json!({"consistentHash": {
                    "useSourceIp": true, "ringHash": {"minimumRingSize": 2_048},
                }}),
            ),
            (
                Strategy::ConsistentHash(ConsistentHash::by(HashKey::QueryParameter("q".into()))),
                json!({"consistentHash": {"httpQueryParameterName": "q"}}),
            ),
        ] {
            assert_eq!(block(&strategy, None), shown);
        }
    }

    #[test]
    fn comparisons_are_shown_where_they_are_made() {
        let policy = EjectPolicy {
            local: Some(3),
            success_rate: SuccessRate::new(1_900).ok(),
            failure_percentage: FailurePercentage::new(85).ok(),
            ..EjectPolicy::default()
        };
        let shown = block(&policy, None);
        assert_eq!(shown["consecutiveLocalOriginFailures"], 3);
        assert_eq!(shown["splitExternalLocalOriginErrors"], true);
        assert_eq!(
            (
                &shown["successRateEjection"],
                &shown["failurePercentageEjection"]
            ),
            (
                &json!({"stdevFactor": 1_900, "minimumHosts": 5, "requestVolume": 100}),
                &json!({"threshold": 85, "minimumHosts": 5, "requestVolume": 50}),
            )
        );
    }

    #[test]
    fn each_block_is_shown_with_where_it_comes_from() {
        let shop = Namespace::new("shop").unwrap();
        let key = ObjectKey::new(Kind::TrafficPolicy, &shop, "cart").unwrap();
        let retry = RetryPolicy::new(2).on_status(503).unwrap();
        let retry = retry.on_grpc(14).unwrap();
        let second = Some(Duration::from_secs(1));
        let part = Percentage::new(12.5).unwrap();
        let fault = FaultInjection::default().with_abort(Percentage::ALL, Abort::Grpc(14));
        let fault = fault.unwrap().with_delay(part, Duration::from_secs(2));
        let fault = fault.unwrap();
        let traffic = Traffic {
            retry: Some(Block::of(Arc::new(retry), &key)),
            timeouts: Some(Block::of(Timeouts::new(second, None).unwrap(), &key)),
            fault: Some(Block::of(Arc::new(fault), &key)),
            proxy_protocol: Some(Block::of(ProxyVersion::V2, &key)),
            ..Traffic::default()
        };
        assert_eq!(
            serde_json::to_value(&traffic).unwrap(),
            json!({
                "loadBalancer": {"simple": "LEAST_REQUEST"},
                "connectionPool": {
                    "tcp": {"maxConnections": 8_192},
                    "http": {"maxRequestsPerEndpoint": 1_024, "http1MaxPendingRequests": 1_024},
                },
                "outlierDetection": {
                    "consecutive5xxErrors": 5, "consecutiveGatewayErrors": 0,
                    "splitExternalLocalOriginErrors": false, "interval": "10000ms",
                    "baseEjectionTime": "30000ms", "maxEjectionTime": "300000ms",
                    "maxEjectionPercent": 10, "minHealthPercent": 0,
                },
                "retryConstraint": {
                    "budget": {"percent": 20, "interval": "10000ms"},
                    "minRetryRate": {"count": 10, "interval": "1000ms"},
                },
                "proxyProtocol": {"version": "V2", "from": "TrafficPolicy/shop/cart"},
                "timeouts": {"request": "1000ms", "from": "TrafficPolicy/shop/cart"},
                "retry": {
                    "attempts": 2, "codes": [503], "grpcCodes": [14], "backoff": "25ms",
                    "from": "TrafficPolicy/shop/cart",
                },
                "fault": {
                    "delay": {"percentage": {"value": 12.5}, "fixedDelay": "2000ms"},
                    "abort": {"percentage": {"value": 100.0}, "grpcStatus": 14},
                    "from": "TrafficPolicy/shop/cart",
                },
            })
        );
    }
}
