//! TrafficPolicy: what is read, and what is refused where.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use inmesh_core::authorize::{Operation, PolicyRule, PolicySource};
use inmesh_core::balance::{
    CheckKind, CheckPolicy, ConsistentHash, EjectPolicy, FailurePercentage, HashCookie, HashKey,
    HashTable, Level, Nearness, Preference, RequestLimits, RingSize, SlowStart, Strategy,
    SuccessRate, TableSize, Volume, ZoneAware,
};
use inmesh_core::limit::{AdaptiveConcurrency, Rate, RateLimit, RateRule, Rates};
use inmesh_core::model::{Kind, Namespace, ObjectKey, ServiceName};
use inmesh_core::retry::{BudgetPolicy, HedgePolicy, RetryPolicy};
use inmesh_core::route::Timeouts;
use inmesh_core::snapshot::{Fallback, Object, Op};
use inmesh_core::traffic::{
    Abort, Bandwidth, CookieLifetime, FaultInjection, Percentage, SessionPersistence, SessionType,
    Target, TrafficPolicy,
};

use super::{only, refusal, with_spec};

const SECOND: Duration = Duration::from_secs(1);

fn text(spec: &str) -> String {
    with_spec("inmesh.dev/v1alpha1", "TrafficPolicy", "", spec)
}

fn accepted(spec: &str) -> Arc<TrafficPolicy> {
    match only(&text(spec)) {
        Op::Put(Object::Traffic(policy), problems) if problems.is_empty() => policy,
        op => panic!("{op:#?}"),
    }
}

#[test]
fn every_block_is_read() {
    let policy = accepted(
        "targetRefs:
- {group: \"\", kind: Service, name: cart, sectionName: http}
timeouts: {request: 10s, backendRequest: 2s, streamIdle: 5m}
retry: {attempts: 2, backoff: 50ms, codes: [503], grpcCodes: [UNAVAILABLE, CANCELLED]}
retryConstraint:
  budget: {percent: 30, interval: 20s}
  minRetryRate: {count: 3, interval: 2s}
loadBalancer: {consistentHash: {httpHeaderName: X-User}}
connectionPool:
  tcp: {maxConnections: 50, connectTimeout: 1s}
  http: {http1MaxPendingRequests: 5, http2MaxRequests: 500, maxRequestsPerEndpoint: 100, idleTimeout: 2s}
outlierDetection:
  consecutive5xxErrors: 7
  consecutiveGatewayErrors: 3
  splitExternalLocalOriginErrors: true
  consecutiveLocalOriginFailures: 2
  interval: 5s
  baseEjectionTime: 10s
  maxEjectionTime: 1m
  maxEjectionPercent: 50
  minHealthPercent: 40
  successRateEjection: {stdevFactor: 2500, minimumHosts: 3, requestVolume: 20}
  failurePercentageEjection: {threshold: 60, minimumHosts: 4, requestVolume: 30}",
    );
    let shop = Namespace::new("shop").unwrap();
    let cart = ServiceName::new(&shop, "cart").unwrap();
    assert_eq!(policy.targets, [Target::Service(cart, Some("http".into()))]);
    let blocks = &policy.blocks;
    let times = Timeouts::new(Some(10 * SECOND), Some(2 * SECOND)).unwrap();
    let times = times.with_stream_idle(Some(300 * SECOND));
    assert_eq!(blocks.timeouts, Some(times));
    let retry = RetryPolicy::new(2).with_backoff(SECOND / 20);
    let retry = retry.on_status(503).unwrap();
    let retry = retry.on_grpc(14).unwrap().on_grpc(1).unwrap();
    assert_eq!(blocks.retry.as_deref(), Some(&retry));
    let budget = BudgetPolicy::new(30, 20 * SECOND, 3, 2 * SECOND).unwrap();
    assert_eq!(blocks.budget, Some(budget));
    let user = HeaderName::from_static("x-user");
    let by_user = ConsistentHash::by(HashKey::Header(user));
    assert_eq!(blocks.strategy, Some(Strategy::ConsistentHash(by_user)));
    let limits = RequestLimits::new(100, Some(500)).unwrap();
    let limits = limits.with_connections(50, 5).unwrap();
    let times = limits.with_times(Some(SECOND), Some(2 * SECOND));
    assert_eq!(blocks.limits, times.ok());
    let mut eject = EjectPolicy::default();
    (eject.consecutive, eject.gateway, eject.local) = (7, 3, Some(2));
    (eject.percent, eject.panic_percent, eject.interval) = (50, 40, 5 * SECOND);
    (eject.base, eject.longest) = (10 * SECOND, 60 * SECOND);
    let by_rate = SuccessRate::new(2_500).unwrap();
    eject.success_rate = Some(by_rate.at(Volume::new(3, 20)));
    let by_share = FailurePercentage::new(60).unwrap();
    eject.failure_percentage = Some(by_share.at(Volume::new(4, 30)));
    assert_eq!(blocks.eject, Some(eject));
}

/// What is chosen by, as a document says it, and a slow start beside it.
#[test]
fn every_strategy_is_read() {
    let hash = |key| ConsistentHash::by(key);
    let cookie = |path, ttl| HashKey::Cookie(HashCookie::new("stay", path, ttl).unwrap());
    let ring = |points| HashTable::Ring(RingSize::new(points).unwrap());
    let maglev = |slots| HashTable::Maglev(TableSize::new(slots).unwrap());
    let by_ip = || hash(HashKey::SourceIp);
    for (spec, strategy) in [
        ("simple: LEAST_REQUEST", Strategy::LeastRequest),
        ("simple: PEAK_EWMA", Strategy::PeakEwma),
        ("simple: RANDOM", Strategy::Random),
        ("simple: ROUND_ROBIN", Strategy::RoundRobin),
        (
            "consistentHash: {httpCookie: {name: stay}}",
            Strategy::ConsistentHash(hash(cookie(None, None))),
        ),
        (
            "consistentHash: {httpCookie: {name: stay, path: /a, ttl: 1h}}",
            Strategy::ConsistentHash(hash(cookie(Some("/a"), Some(3_600 * SECOND)))),
        ),
        (
            "consistentHash: {httpCookie: {name: stay, ttl: 0s}}",
            Strategy::ConsistentHash(hash(cookie(None, Some(Duration::ZERO)))),
        ),
        (
            "consistentHash: {httpQueryParameterName: user}",
            Strategy::ConsistentHash(hash(HashKey::QueryParameter("user".into()))),
        ),
        (
            "consistentHash: {useSourceIp: true, ringHash: {}}",
            Strategy::ConsistentHash(by_ip().through(ring(1_024))),
        ),
        (
            "consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 64}}",
            Strategy::ConsistentHash(by_ip().through(ring(64))),
        ),
        (
            "consistentHash: {useSourceIp: true, maglev: {}}",
            Strategy::ConsistentHash(by_ip().through(maglev(65_537))),
        ),
        (
            "consistentHash: {useSourceIp: true, maglev: {tableSize: 251}}",
            Strategy::ConsistentHash(by_ip().through(maglev(251))),
        ),
    ] {
        let policy = accepted(&format!("loadBalancer: {{{spec}}}"));
        assert_eq!(policy.blocks.strategy, Some(strategy), "{spec}");
        assert_eq!(policy.blocks.warmup, None, "{spec}");
    }
    for (spec, strategy, warmup) in [
        (
            "simple: RANDOM, warmup: {duration: 1m, minimumPercent: 5, aggression: 2}",
            Some(Strategy::Random),
            (60, 5, 2.0),
        ),
        (
            "warmup: {duration: 30s, aggression: 1.5}",
            None,
            (30, 10, 1.5),
        ),
    ] {
        let blocks = &accepted(&format!("loadBalancer: {{{spec}}}")).blocks;
        let (seconds, percent, aggression) = warmup;
        let warmup = SlowStart::new(seconds * SECOND, percent, aggression).ok();
        assert_eq!(
            (&blocks.strategy, blocks.warmup),
            (&strategy, warmup),
            "{spec}"
        );
    }
}

#[test]
fn checks_are_read() {
    let policy = |kind, change: &dyn Fn(&mut CheckPolicy)| {
        let mut policy = CheckPolicy::new(kind);
        change(&mut policy);
        policy
    };
    let http = |path: &str, statuses: &[u16]| CheckKind::Http(path.into(), statuses.into());
    for (spec, wanted) in [
        ("http: {}", policy(http("/", &[200]), &|_| ())),
        (
            "http: {path: '/healthz?a=b', expectedStatuses: [200, 204]}",
            policy(http("/healthz?a=b", &[200, 204]), &|_| ()),
        ),
        ("grpc: {}", policy(CheckKind::Grpc("".into()), &|_| ())),
        (
            "grpc: {serviceName: shop.Cart}",
            policy(CheckKind::Grpc("shop.Cart".into()), &|_| ()),
        ),
        (
            "tcp: {}, interval: 5s, timeout: 500ms, unhealthyThreshold: 2, healthyThreshold: 4",
            policy(CheckKind::Tcp, &|policy| {
                (policy.interval, policy.timeout) = (5 * SECOND, SECOND / 2);
                (policy.unhealthy, policy.healthy) = (2, 4);
            }),
        ),
    ] {
        let blocks = &accepted(&format!("healthCheck: {{{spec}}}")).blocks;
        assert_eq!(blocks.check.as_deref(), Some(&wanted), "{spec}");
    }
}

#[test]
fn what_is_near_is_read() {
    let prefer =
        |levels: &[Level]| Nearness::Prefer(Preference::new(levels.iter().copied()).unwrap());
    let even = |least: u32, callers: &[(&str, u32)]| {
        let by = ZoneAware::new(least);
        let callers = callers.iter().map(|(zone, n)| ((*zone).into(), *n));
        Nearness::ZoneAware(by.with_callers(callers).unwrap())
    };
    for (spec, wanted) in [
        (
            "localityLbSetting: {}",
            prefer(&[Level::Region, Level::Zone]),
        ),
        (
            "localityLbSetting: {enabled: true}",
            prefer(&[Level::Region, Level::Zone]),
        ),
        (
            "localityLbSetting: {failoverPriority: [topology.kubernetes.io/zone, kubernetes.io/hostname]}",
            prefer(&[Level::Zone, Level::Node]),
        ),
        ("localityLbSetting: {enabled: false}", Nearness::Anywhere),
        (
            "zoneAwareLbSetting: {}",
            Nearness::ZoneAware(ZoneAware::default()),
        ),
        (
            "zoneAwareLbSetting: {minClusterSize: 3, callers: {b: 2, a: 1}}",
            even(3, &[("a", 1), ("b", 2)]),
        ),
        ("zoneAwareLbSetting: {enabled: false}", Nearness::Anywhere),
    ] {
        let blocks = &accepted(&format!("loadBalancer: {{{spec}}}")).blocks;
        assert_eq!(
            (blocks.nearness.as_ref(), &blocks.strategy),
            (Some(&wanted), &None),
            "{spec}"
        );
    }
    assert_eq!(
        accepted("loadBalancer: {simple: RANDOM}").blocks.nearness,
        None
    );
}

/// As Envoy has it: a base above the default of the longest ejection raises that.
#[test]
fn what_is_left_out_of_outlier_detection_has_its_default() {
    let eject = |spec: &str| {
        accepted(&format!("outlierDetection: {{{spec}}}"))
            .blocks
            .eject
            .unwrap()
    };
    assert_eq!(eject(""), EjectPolicy::default());
    let long = eject("baseEjectionTime: 10m");
    assert_eq!((long.base, long.longest), (600 * SECOND, 600 * SECOND));
    assert_eq!(eject("splitExternalLocalOriginErrors: true").local, Some(5));
    assert_eq!(eject("splitExternalLocalOriginErrors: false").local, None);
    let compares = eject("successRateEjection: {}, failurePercentageEjection: {}");
    assert_eq!(compares.success_rate, SuccessRate::new(1_900).ok());
    assert_eq!(compares.failure_percentage, FailurePercentage::new(85).ok());
    let limits = |spec: &str| {
        let policy = accepted(&format!("connectionPool: {{http: {{{spec}}}}}"));
        policy.blocks.limits
    };
    assert_eq!(
        limits("http2MaxRequests: 7"),
        RequestLimits::new(1_024, Some(7)).ok()
    );
    assert_eq!(
        limits("maxRequestsPerEndpoint: 7"),
        RequestLimits::new(7, None).ok()
    );
    assert_eq!(
        limits("http1MaxPendingRequests: 7"),
        RequestLimits::default().with_connections(8_192, 7).ok()
    );
    assert_eq!(
        limits("idleTimeout: 7s"),
        RequestLimits::default()
            .with_times(None, Some(7 * SECOND))
            .ok()
    );
    let policy = accepted("connectionPool: {tcp: {connectTimeout: 100ms}}");
    let tenth = Some(SECOND / 10);
    assert_eq!(
        policy.blocks.limits,
        RequestLimits::default().with_times(tenth, None).ok()
    );
    let policy = accepted("connectionPool: {tcp: {maxConnections: 7}}");
    assert_eq!(
        policy.blocks.limits,
        RequestLimits::default().with_connections(7, 1_024).ok()
    );
}

#[test]
fn faults_are_read_for_their_shares() {
    let policy = accepted(
        "fault:
  delay: {percentage: {value: 12.5}, fixedDelay: 2s}
  abort: {percentage: {value: 100}, grpcStatus: UNAVAILABLE}
  responseBandwidth: {percentage: {value: 50}, limit: 50 kbps}",
    );
    let wanted = FaultInjection::default()
        .with_delay(Percentage::new(12.5).unwrap(), 2 * SECOND)
        .unwrap()
        .with_abort(Percentage::ALL, Abort::Grpc(14))
        .unwrap()
        .with_bandwidth(
            Percentage::new(50.0).unwrap(),
            Bandwidth::new(50_000).unwrap(),
        );
    assert_eq!(policy.blocks.fault.as_deref(), Some(&wanted));
    let policy = accepted("fault: {abort: {percentage: {value: 0.01}, httpStatus: 418}}");
    let abort = policy.blocks.fault.as_ref().unwrap().abort().unwrap();
    let status = http::StatusCode::IM_A_TEAPOT;
    assert_eq!(abort, (Percentage::new(0.01).unwrap(), Abort::Http(status)));
    for (text, bits) in [
        ("1kbps", 1_000),
        ("2Mbps", 2_000_000),
        ("100 Gbps", 100_000_000_000),
    ] {
        let slow = format!("{{percentage: {{value: 1}}, limit: {text}}}");
        let policy = accepted(&format!("fault: {{responseBandwidth: {slow}}}"));
        let (_, limit) = policy.blocks.fault.as_ref().unwrap().bandwidth().unwrap();
        assert_eq!(limit.bits(), bits, "{text}");
    }
}

#[test]
fn hedges_are_read_in_the_words_of_grpc() {
    let hedge = |text: &str| accepted(text).blocks.hedge.clone().unwrap();
    let wanted = HedgePolicy::new(2, SECOND / 20).unwrap();
    assert_eq!(*hedge("hedge: {hedgingDelay: 50ms}"), wanted);
    let wanted = HedgePolicy::new(5, Duration::ZERO).unwrap().with_grpc();
    let wanted = wanted.on_status(503).unwrap().on_status(429).unwrap();
    let wanted = wanted.on_grpc(14).unwrap();
    let text = "hedge: {maxAttempts: 5, hedgingDelay: 0s, codes: [503, 429], grpc: true, \
                grpcCodes: [UNAVAILABLE]}";
    assert_eq!(*hedge(text), wanted);
}

#[test]
fn limits_of_workloads_are_read_with_their_rules() {
    let policy = accepted(
        "selector: {matchLabels: {app: cart}}
rateLimit:
  total: {requests: 100, burst: 200}
  perIdentity: {requests: 10, interval: 1m, burst: 1}
  rules:
  - from: [{source: {principals: [example.org/ns/shop/sa/batch]}}]
    to: [{operation: {methods: [POST], paths: [/orders]}}]
    perIdentity: {requests: 5}",
    );
    let labels = vec![("app".into(), "cart".into())];
    assert_eq!(policy.targets, [Target::Workloads(labels)]);
    let rate = |requests, interval, burst| Some(Rate::new(requests, interval, burst).unwrap());
    let batch = PolicySource::builder().principals(["example.org/ns/shop/sa/batch"]);
    let orders = Operation::builder().methods(["POST"]).paths(["/orders"]);
    let of = PolicyRule::new(vec![batch.build().unwrap()], vec![orders.build().unwrap()]);
    let rule = RateRule::new(of, Rates::new(None, rate(5, SECOND, 5))).unwrap();
    let all = Rates::new(rate(100, SECOND, 200), rate(10, 60 * SECOND, 1));
    let wanted = RateLimit::new(all, vec![rule]).unwrap();
    assert_eq!(policy.blocks.rate_limit.as_deref(), Some(&wanted));
    // A default of its namespace.
    let policy = accepted("rateLimit: {total: {requests: 1}}");
    assert!(policy.targets.is_empty());
    let whole = "{minConcurrency: 2, maxConcurrency: 9, latencyTolerance: 1.5}";
    for (text, wanted) in [
        ("{}", AdaptiveConcurrency::default()),
        (whole, AdaptiveConcurrency::new(2, 9, 1.5).unwrap()),
    ] {
        let policy = accepted(&format!("adaptiveConcurrency: {text}"));
        assert_eq!(policy.blocks.adaptive, Some(wanted));
    }
}

#[test]
fn the_key_of_a_split_is_read() {
    let cookie = HashCookie::new("user", Some("/"), Some(3_600 * SECOND)).unwrap();
    for (text, wanted) in [
        (
            "httpHeaderName: X-User",
            HashKey::Header(HeaderName::from_static("x-user")),
        ),
        (
            "httpCookie: {name: user, path: /, ttl: 1h}",
            HashKey::Cookie(cookie),
        ),
        (
            "httpQueryParameterName: user",
            HashKey::QueryParameter("user".into()),
        ),
    ] {
        let policy = accepted(&format!(
            "targetRefs:
- {{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}}
- {{group: gateway.networking.k8s.io, kind: GRPCRoute, name: a, sectionName: b}}
trafficSplit: {{consistentHash: {{{text}}}}}"
        ));
        let split = policy.blocks.split.as_ref().expect("a split");
        assert_eq!(split.key(), &wanted);
    }
}

#[test]
fn sessions_are_read() {
    let cookie = |lifetime| SessionPersistence::new(SessionType::Cookie(lifetime));
    let header = || SessionPersistence::new(SessionType::Header);
    let hour = Some(3_600 * SECOND);
    let permanent = cookie(CookieLifetime::Permanent).named("stay").unwrap();
    for (text, wanted) in [
        ("{}", cookie(CookieLifetime::Session)),
        ("{type: Header}", header()),
        (
            "{type: Header, sessionName: X-Stay, idleTimeout: 1s}",
            header()
                .named("X-Stay")
                .unwrap()
                .with_timeouts(None, Some(SECOND))
                .unwrap(),
        ),
        (
            "{sessionName: stay, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}",
            permanent.with_timeouts(hour, None).unwrap(),
        ),
        (
            "{type: Cookie, cookieConfig: {}}",
            cookie(CookieLifetime::Session),
        ),
    ] {
        let policy = accepted(&format!("sessionPersistence: {text}"));
        assert_eq!(policy.blocks.session.as_deref(), Some(&wanted), "{text}");
    }
}

#[test]
fn what_is_left_out_is_the_default_of_its_api() {
    let policy = accepted("retry: {}\nretryConstraint: {}");
    assert!(policy.targets.is_empty());
    assert_eq!(policy.blocks.retry.as_deref(), Some(&RetryPolicy::new(1)));
    assert_eq!(policy.blocks.budget, Some(BudgetPolicy::default()));
    assert_eq!(policy.blocks.timeouts, None);
    let simple = accepted("loadBalancer: {simple: LEAST_REQUEST}");
    assert_eq!(simple.blocks.strategy, Some(Strategy::LeastRequest));
    let route = accepted(
        "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: cart}]\nretry: {}",
    );
    let shop = Namespace::new("shop").unwrap();
    let key = ObjectKey::new(Kind::HttpRoute, &shop, "cart").unwrap();
    assert_eq!(route.targets, [Target::Route(key, None)]);
    let route = accepted(
        "targetRefs:
- {group: gateway.networking.k8s.io, kind: GRPCRoute, name: cart, sectionName: get}
retry: {}",
    );
    let key = ObjectKey::new(Kind::GrpcRoute, &shop, "cart").unwrap();
    assert_eq!(route.targets, [Target::Route(key, Some("get".into()))]);
}

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    let target = "group: \"\", kind: Service, name: cart";
    let to_route = "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}]";
    for (spec, field, why) in [
        ("{}", "spec", "without a block"),
        ("retry: {atempts: 1}", "spec.retry.atempts", "known field"),
        ("retires: {}", "spec.retires", "known field"),
        (
            "retry: {grpcCodes: [OK]}",
            "spec.retry.grpcCodes[0]",
            "not one of",
        ),
        (
            "retry: {grpcCodes: [ABORTED, ABORTED]}",
            "spec.retry.grpcCodes[1]",
            "stands twice",
        ),
        (
            "retryConstraint: {budget: {percent: 101}}",
            "spec.retryConstraint.budget.percent",
            "not within",
        ),
        (
            "retryConstraint: {budget: {interval: 2h}}",
            "spec.retryConstraint",
            "between 1s and 1h",
        ),
        ("loadBalancer: {}", "spec.loadBalancer", "one of simple"),
        (
            "loadBalancer: {simple: LEAST_REQUEST, consistentHash: {httpHeaderName: a}}",
            "spec.loadBalancer",
            "one of simple",
        ),
        (
            "loadBalancer: {simple: ROUND_ROBIM}",
            "spec.loadBalancer.simple",
            "not one of",
        ),
        (
            "loadBalancer: {simple: LEAST_CONN}",
            "spec.loadBalancer.simple",
            "not one of",
        ),
        (
            "loadBalancer: {consistentHash: {}}",
            "spec.loadBalancer.consistentHash",
            "has one of httpCookie",
        ),
        (
            "loadBalancer: {consistentHash: {httpHeaderName: a, useSourceIp: true}}",
            "spec.loadBalancer.consistentHash",
            "has one of httpCookie",
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: false}}",
            "spec.loadBalancer.consistentHash.useSourceIp",
            "names no key",
        ),
        (
            "loadBalancer: {consistentHash: {httpQueryParameterName: \"\"}}",
            "spec.loadBalancer.consistentHash.httpQueryParameterName",
            "is empty",
        ),
        (
            "loadBalancer: {consistentHash: {httpCookie: {name: a=b}}}",
            "spec.loadBalancer.consistentHash.httpCookie",
            "names no cookie",
        ),
        (
            "loadBalancer: {consistentHash: {httpCookie: {name: a, attributes: []}}}",
            "spec.loadBalancer.consistentHash.httpCookie.attributes",
            "not evaluated",
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {}, ringHash: {}}}",
            "spec.loadBalancer.consistentHash",
            "one of ringHash and maglev",
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 65536}}}",
            "spec.loadBalancer.consistentHash.maglev.tableSize",
            "a prime",
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 65537}}}",
            "spec.loadBalancer.consistentHash.ringHash.minimumRingSize",
            "1 to 65536",
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 10}}",
            "spec.loadBalancer.consistentHash.minimumRingSize",
            "ringHash.minimumRingSize",
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true}, warmup: {duration: 1m}}",
            "spec.loadBalancer.warmup",
            "no effect on consistentHash",
        ),
        (
            "loadBalancer: {warmup: {}}",
            "spec.loadBalancer.warmup.duration",
            "is missing",
        ),
        (
            "loadBalancer: {warmup: {duration: 1m, aggression: much}}",
            "spec.loadBalancer.warmup.aggression",
            "not a number",
        ),
        (
            "loadBalancer: {warmup: {duration: 1m, aggression: .inf}}",
            "spec.loadBalancer.warmup.aggression",
            "not a number",
        ),
        (
            "loadBalancer: {warmup: {duration: 1m, aggression: 0}}",
            "spec.loadBalancer.warmup",
            "0.1 to 100",
        ),
        (
            "loadBalancer: {warmup: {duration: 1m, minimumPercent: 0}}",
            "spec.loadBalancer.warmup.minimumPercent",
            "not within",
        ),
        (
            "loadBalancer: {simple: RANDOM, warmupDurationSecs: 60s}",
            "spec.loadBalancer.warmupDurationSecs",
            "warmup.duration",
        ),
        (
            "healthCheck: {}",
            "spec.healthCheck",
            "has one of http, tcp and grpc",
        ),
        (
            "healthCheck: {tcp: {}, grpc: {}}",
            "spec.healthCheck",
            "has one of http, tcp and grpc",
        ),
        (
            "healthCheck: {tcp: {port: 1}}",
            "spec.healthCheck.tcp.port",
            "known field",
        ),
        (
            "healthCheck: {http: {path: healthz}}",
            "spec.healthCheck",
            "not a path",
        ),
        (
            "healthCheck: {http: {expectedStatuses: []}}",
            "spec.healthCheck.http.expectedStatuses",
            "empty list",
        ),
        (
            "healthCheck: {http: {expectedStatuses: [99]}}",
            "spec.healthCheck",
            "200 to 599",
        ),
        (
            "healthCheck: {tcp: {}, interval: 1s, timeout: 2s}",
            "spec.healthCheck",
            "at most the interval",
        ),
        (
            "healthCheck: {tcp: {}, interval: 100ms, timeout: 50ms}",
            "spec.healthCheck",
            "1s to 1h",
        ),
        (
            "healthCheck: {tcp: {}, healthyThreshold: 0}",
            "spec.healthCheck.healthyThreshold",
            "not within",
        ),
        (
            &format!(
                "healthCheck: {{grpc: {{serviceName: {}}}}}",
                "a".repeat(128)
            ),
            "spec.healthCheck.grpc.serviceName",
            "longer than 127",
        ),
        (
            "loadBalancer: {localityLbSetting: {distribute: []}}",
            "spec.loadBalancer.localityLbSetting.distribute",
            "not evaluated",
        ),
        (
            "loadBalancer: {localityLbSetting: {failoverPriority: [a]}}",
            "spec.loadBalancer.localityLbSetting.failoverPriority[0]",
            "not one of topology.kubernetes.io/region",
        ),
        (
            "loadBalancer: {localityLbSetting: {failoverPriority: [kubernetes.io/hostname, \
             kubernetes.io/hostname]}}",
            "spec.loadBalancer.localityLbSetting.failoverPriority",
            "stands twice",
        ),
        (
            "loadBalancer: {localityLbSetting: {failoverPriority: []}}",
            "spec.loadBalancer.localityLbSetting.failoverPriority",
            "empty list",
        ),
        (
            "loadBalancer: {localityLbSetting: {enabled: false, failoverPriority: \
             [kubernetes.io/hostname]}}",
            "spec.loadBalancer.localityLbSetting.failoverPriority",
            "no effect where enabled",
        ),
        (
            "loadBalancer: {localityLbSetting: {}, zoneAwareLbSetting: {}}",
            "spec.loadBalancer",
            "one of localityLbSetting and zoneAwareLbSetting",
        ),
        (
            "loadBalancer: {zoneAwareLbSetting: {failover: []}}",
            "spec.loadBalancer.zoneAwareLbSetting.failover",
            "not evaluated",
        ),
        (
            "loadBalancer: {zoneAwareLbSetting: {callers: {a: 0}}}",
            "spec.loadBalancer.zoneAwareLbSetting.callers",
            "no zone has callers",
        ),
        (
            "loadBalancer: {zoneAwareLbSetting: {callers: {a: -1}}}",
            "spec.loadBalancer.zoneAwareLbSetting.callers[a]",
            "out of range",
        ),
        (
            "loadBalancer: {zoneAwareLbSetting: {minClusterSize: many}}",
            "spec.loadBalancer.zoneAwareLbSetting.minClusterSize",
            "not a whole number",
        ),
        (
            "connectionPool: {}",
            "spec.connectionPool",
            "has one of tcp and http",
        ),
        (
            "connectionPool: {tcp: {}}",
            "spec.connectionPool.tcp",
            "has one of connectTimeout and maxConnections",
        ),
        (
            "connectionPool: {tcp: {maxConnections: 0}}",
            "spec.connectionPool.tcp.maxConnections",
            "not within",
        ),
        (
            "connectionPool: {http: {http1MaxPendingRequests: 0}}",
            "spec.connectionPool.http.http1MaxPendingRequests",
            "not within",
        ),
        (
            "connectionPool: {http: {}}",
            "spec.connectionPool.http",
            "has one of http1MaxPendingRequests",
        ),
        (
            "connectionPool: {http: {http2MaxRequests: 0}}",
            "spec.connectionPool.http.http2MaxRequests",
            "not within",
        ),
        (
            "connectionPool: {tcp: {maxConnections: 1, idleTimeout: 1s}}",
            "spec.connectionPool.tcp.idleTimeout",
            "not evaluated here",
        ),
        (
            "connectionPool: {tcp: {connectTimeout: 0s}}",
            "spec.connectionPool",
            "1 ms to 24 h",
        ),
        (
            "connectionPool: {http: {idleTimeout: 25h}}",
            "spec.connectionPool",
            "1 ms to 24 h",
        ),
        (
            "connectionPool: {http: {http2MaxRequests: 1, maxRetries: 3}}",
            "spec.connectionPool.http.maxRetries",
            "retryConstraint",
        ),
        (
            "outlierDetection: {consecutiveErrors: 5}",
            "spec.outlierDetection.consecutiveErrors",
            "consecutive5xxErrors",
        ),
        (
            "outlierDetection: {consecutiveLocalOriginFailures: 5}",
            "spec.outlierDetection.consecutiveLocalOriginFailures",
            "needs splitExternalLocalOriginErrors",
        ),
        (
            "outlierDetection: {baseEjectionTime: 1m, maxEjectionTime: 30s}",
            "spec.outlierDetection.maxEjectionTime",
            "shorter than baseEjectionTime",
        ),
        (
            "outlierDetection: {interval: 0s}",
            "spec.outlierDetection.interval",
            "above 0s",
        ),
        (
            "outlierDetection: {minHealthPercent: 101}",
            "spec.outlierDetection.minHealthPercent",
            "not within",
        ),
        (
            "outlierDetection: {successRateEjection: {stdevFactor: 0}}",
            "spec.outlierDetection.successRateEjection.stdevFactor",
            "1 to 10,000",
        ),
        (
            "outlierDetection: {successRateEjection: {enforcementPercentage: 50}}",
            "spec.outlierDetection.successRateEjection.enforcementPercentage",
            "not evaluated",
        ),
        (
            "outlierDetection: {failurePercentageEjection: {minimumHosts: 0}}",
            "spec.outlierDetection.failurePercentageEjection.minimumHosts",
            "not within",
        ),
        (
            "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}]
connectionPool: {http: {http2MaxRequests: 1}}",
            "spec",
            "is a Service's",
        ),
        (
            "outlierDetection: {baseEjectionTime: 0s}",
            "spec.outlierDetection.baseEjectionTime",
            "above 0s",
        ),
        (
            "adaptiveConcurrency: {minConcurrency: 9, maxConcurrency: 8}",
            "spec.adaptiveConcurrency",
            "9 to 8",
        ),
        (
            "adaptiveConcurrency: {latencyTolerance: 1}",
            "spec.adaptiveConcurrency",
            "1.1 to 10",
        ),
        ("rateLimit: {}", "spec.rateLimit", "a total"),
        (
            "rateLimit: {total: {}}",
            "spec.rateLimit.total.requests",
            "is missing",
        ),
        (
            "rateLimit: {total: {requests: 0}}",
            "spec.rateLimit.total.requests",
            "not within",
        ),
        (
            "rateLimit: {total: {requests: 1, interval: 100ms}}",
            "spec.rateLimit.total",
            "between 1s and 1h",
        ),
        (
            "rateLimit: {total: {requests: 1}, rules: [{perIdentity: {requests: 1}}]}",
            "spec.rateLimit.rules[0]",
            "a from, a to",
        ),
        (
            "rateLimit: {rules: [{to: [{operation: {methods: [GET]}}]}]}",
            "spec.rateLimit.rules[0]",
            "a perIdentity",
        ),
        (
            "selector: {matchLabels: {app: x}}
retry: {}",
            "spec",
            "no other block",
        ),
        (
            "selector: {matchLabels: {app: x}}
targetRefs: [{group: '', kind: Service, name: x}]
rateLimit: {total: {requests: 1}}",
            "spec.targetRefs",
            "beside a selector",
        ),
        (
            "targetRefs: [{group: '', kind: Service, name: x}]
rateLimit: {total: {requests: 1}}",
            "spec",
            "selector",
        ),
        ("hedge: {}", "spec.hedge.hedgingDelay", "is missing"),
        (
            "hedge: {maxAttempts: 6, hedgingDelay: 1s}",
            "spec.hedge.maxAttempts",
            "not within 2 and 5",
        ),
        (
            "hedge: {maxAttempts: 1, hedgingDelay: 1s}",
            "spec.hedge.maxAttempts",
            "not within 2 and 5",
        ),
        ("hedge: {hedgingDelay: 2h}", "spec.hedge", "at most 1h"),
        (
            "hedge: {hedgingDelay: soon}",
            "spec.hedge.hedgingDelay",
            "duration",
        ),
        (
            "hedge: {hedgingDelay: 1s, codes: [200]}",
            "spec.hedge.codes[0]",
            "not within",
        ),
        (
            "hedge: {hedgingDelay: 1s, codes: [503, 503]}",
            "spec.hedge.codes[1]",
            "stands twice",
        ),
        (
            "hedge: {hedgingDelay: 1s, grpcCodes: [UNAVAILABLE]}",
            "spec.hedge",
            "without `grpc: true`",
        ),
        (
            "hedge: {hedgingDelay: 1s, nonFatalStatusCodes: [UNAVAILABLE]}",
            "spec.hedge.nonFatalStatusCodes",
            "is `codes`",
        ),
        (
            "hedge: {hedgingDelay: 1s, delay: 1s}",
            "spec.hedge.delay",
            "",
        ),
        (
            "hedge: {hedgingDelay: 1s}\nretry: {}",
            "spec.hedge",
            "beside a retry",
        ),
        ("fault: {}", "spec.fault", "a delay, an abort"),
        (
            "fault: {delay: {fixedDelay: 1s}}",
            "spec.fault.delay.percentage",
            "is missing",
        ),
        (
            "fault: {delay: {percentage: {value: 101}, fixedDelay: 1s}}",
            "spec.fault.delay.percentage.value",
            "not 0 to 100",
        ),
        (
            "fault: {delay: {percentage: {value: 0.12345}, fixedDelay: 1s}}",
            "spec.fault.delay.percentage.value",
            "0.12345 has more than four digits",
        ),
        (
            "fault: {abort: {percentage: {value: 0.00001}, httpStatus: 500}}",
            "spec.fault.abort.percentage.value",
            "0.00001 has more than four digits",
        ),
        (
            "fault: {responseBandwidth: {percentage: {value: 99.99999}, limit: 5kbps}}",
            "spec.fault.responseBandwidth.percentage.value",
            "more than four digits",
        ),
        (
            "loadBalancer: {warmup: {duration: 1m, aggression: 1.0001}}",
            "spec.loadBalancer.warmup",
            "three digits after the point, not 1.0001",
        ),
        (
            "adaptiveConcurrency: {latencyTolerance: 1.50001}",
            "spec.adaptiveConcurrency",
            "three digits after the point, not 1.50001",
        ),
        (
            "loadBalancer: {consistentHash: {httpHeaderName: Host}}",
            "spec.loadBalancer.consistentHash.httpHeaderName",
            "no header field over HTTP/2",
        ),
        (
            &format!("{to_route}\ntrafficSplit: {{consistentHash: {{httpHeaderName: host}}}}"),
            "spec.trafficSplit.consistentHash.httpHeaderName",
            "no header field over HTTP/2",
        ),
        (
            "fault: {delay: {percentage: {value: ten}, fixedDelay: 1s}}",
            "spec.fault.delay.percentage.value",
            "not a number",
        ),
        (
            "fault: {delay: {percentage: {value: 1}, fixedDelay: 0s}}",
            "spec.fault.delay",
            "above 0s",
        ),
        (
            "fault: {abort: {percentage: {value: 1}}}",
            "spec.fault.abort",
            "one of httpStatus",
        ),
        (
            "fault: {responseBandwidth: {percentage: {value: 1}}}",
            "spec.fault.responseBandwidth.limit",
            "is missing",
        ),
        (
            "fault: {responseBandwidth: {percentage: {value: 1}, limit: 5KB}}",
            "spec.fault.responseBandwidth.limit",
            "kbps",
        ),
        (
            "fault: {responseBandwidth: {percentage: {value: 1}, limit: +5kbps}}",
            "spec.fault.responseBandwidth.limit",
            "kbps",
        ),
        (
            "fault: {responseBandwidth: {percentage: {value: 1}, limit: 101Gbps}}",
            "spec.fault.responseBandwidth.limit",
            "100Gbps",
        ),
        (
            "fault: {abort: {percentage: {value: 1}, httpStatus: 600}}",
            "spec.fault.abort.httpStatus",
            "not within",
        ),
        (
            "timeouts: {request: 1s, backendRequest: 2s}",
            "spec.timeouts",
            "longer than request",
        ),
        (
            &format!("targetRefs: [{{{target}}}, {{{target}}}]\nretry: {{}}"),
            "spec.targetRefs[1]",
            "stands twice",
        ),
        (
            "targetRefs: [{group: apps, kind: Deployment, name: a}]\nretry: {}",
            "spec.targetRefs[0]",
            "a target is a Service",
        ),
        (
            &format!("{to_route}\noutlierDetection: {{}}"),
            "spec",
            "is a Service's",
        ),
        (
            "sessionPersistence: {sessionName: 'a b'}",
            "spec.sessionPersistence.sessionName",
            "names no cookie",
        ),
        (
            "sessionPersistence: {type: Header, sessionName: 'a:b'}",
            "spec.sessionPersistence.sessionName",
            "names no header field",
        ),
        (
            "sessionPersistence: {type: Header, sessionName: Transfer-Encoding}",
            "spec.sessionPersistence.sessionName",
            "set by the proxy itself",
        ),
        (
            "sessionPersistence: {type: Header, sessionName: x-mesh-reason}",
            "spec.sessionPersistence.sessionName",
            "what only the mesh says",
        ),
        (
            "sessionPersistence: {type: Header, sessionName: Set-Cookie}",
            "spec.sessionPersistence.sessionName",
            "a meaning of its own",
        ),
        (
            "sessionPersistence: {type: Url}",
            "spec.sessionPersistence.type",
            "not one of",
        ),
        (
            "sessionPersistence: {type: Header, cookieConfig: {}}",
            "spec.sessionPersistence.cookieConfig",
            "no effect",
        ),
        (
            "sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}",
            "spec.sessionPersistence",
            "has an absoluteTimeout",
        ),
        (
            "sessionPersistence: {idleTimeout: 100ms}",
            "spec.sessionPersistence",
            "idleTimeout is 1s to",
        ),
        (
            "sessionPersistence: {absoluteTimeout: 0s}",
            "spec.sessionPersistence",
            "absoluteTimeout is 1s to",
        ),
        (
            "sessionPersistence: {sessionname: a}",
            "spec.sessionPersistence.sessionname",
            "known field",
        ),
        (
            "selector: {matchLabels: {app: a}}\nsessionPersistence: {}",
            "spec",
            "no other block",
        ),
        (
            "trafficSplit: {consistentHash: {httpHeaderName: a}}",
            "spec",
            "of the rules of a route",
        ),
        (
            &format!(
                "targetRefs: [{{{target}}}]\ntrafficSplit: {{consistentHash: {{httpHeaderName: a}}}}"
            ),
            "spec",
            "of the rules of a route",
        ),
        (
            &format!("{to_route}\ntrafficSplit: {{}}"),
            "spec.trafficSplit.consistentHash",
            "is missing",
        ),
        (
            &format!("{to_route}\ntrafficSplit: {{consistentHash: {{}}}}"),
            "spec.trafficSplit.consistentHash",
            "has one of httpCookie, httpHeaderName, httpQueryParameterName",
        ),
        (
            &format!(
                "{to_route}\ntrafficSplit: {{consistentHash: {{httpHeaderName: a, httpCookie: {{name: a}}}}}}"
            ),
            "spec.trafficSplit.consistentHash",
            "has one of",
        ),
        (
            &format!(
                "{to_route}\ntrafficSplit: {{consistentHash: {{httpHeaderName: a, maglev: {{}}}}}}"
            ),
            "spec.trafficSplit.consistentHash.maglev",
            "no effect on a split",
        ),
        (
            &format!("{to_route}\ntrafficSplit: {{consistentHash: {{useSourceIp: true}}}}"),
            "spec.trafficSplit.consistentHash.useSourceIp",
            "the same for all users",
        ),
        (
            &format!("{to_route}\ntrafficSplit: {{consistentHash: {{httpHeaderName: 'a b'}}}}"),
            "spec.trafficSplit.consistentHash.httpHeaderName",
            "header name",
        ),
    ] {
        let (fallback, problems) = refusal(&text(spec));
        assert_eq!(fallback, Fallback::Absent, "{spec}");
        let found = problems
            .iter()
            .any(|p| p.field == field && p.message.contains(why));
        assert!(found, "{spec}: {problems:#?}");
    }
}

/// A kind of ours that permits nothing denies nothing where it is misspelt.
#[test]
fn a_misspelt_kind_is_refused_and_denies_nothing() {
    let text = with_spec("inmesh.dev/v1alpha1", "TraficPolicy", "", "retry: {}");
    let (fallback, problems) = refusal(&text);
    assert_eq!(fallback, Fallback::Absent);
    assert!(problems[0].message.contains("TraficPolicy"), "{problems:?}");
}
