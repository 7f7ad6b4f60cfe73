//! `loadBalancer`: how an endpoint is chosen, and how a new one takes its share.
//!
//! The words are those of Istio's LoadBalancerSettings, and `PEAK_EWMA` is ours.

use http::HeaderName;
use inmesh_core::balance::{
    ConsistentHash, HashCookie, HashKey, HashTable, Level, Nearness, Preference, RingSize,
    SlowStart, Strategy, TableSize, ZoneAware,
};
use inmesh_core::traffic::TrafficSplit;

use super::super::strict::{Fields, Value};
use super::super::text;
use super::UNUSED;

/// The strategies that take no more than their name.
const SIMPLE: &[&str] = &["LEAST_REQUEST", "PEAK_EWMA", "RANDOM", "ROUND_ROBIN"];
/// The keys of a hash, of which a policy has one.
const KEYS: [&str; 4] = [
    "httpCookie",
    "httpHeaderName",
    "httpQueryParameterName",
    "useSourceIp",
];
/// The share of a new endpoint in percent, and how fast it grows, where a document leaves them out.
const WARMUP: (u8, f64) = (10, 1.0);

/// The labels of what can be near.
const LEVELS: [Level; 3] = [Level::Region, Level::Zone, Level::Node];
/// The most zones whose callers are named.
const ZONES: usize = 100;

/// A strategy, a slow start and what is near, of which one is there.
pub(super) type Balancer = (Option<Strategy>, Option<SlowStart>, Option<Nearness>);

pub(super) fn read(value: &Value<'_>) -> Option<Balancer> {
    value.object(|fields| {
        fields.refuse_all(&["warmupDurationSecs"], "is `warmup.duration`");
        let (simple, hash) = (fields.get("simple"), fields.get("consistentHash"));
        let (warmup, near) = (fields.get("warmup"), nearness(fields));
        // Each is read, for its problems.
        let named = simple.as_ref().map(simple_strategy);
        let hashed = hash.as_ref().map(consistent_hash);
        let started = warmup.as_ref().map(slow_start);
        let strategy = match (named, hashed) {
            (Some(_), Some(_)) => {
                value.refuse("has one of simple and consistentHash");
                return None;
            }
            (Some(read), None) => Some(read?),
            (None, Some(read)) => Some(Strategy::ConsistentHash(read?)),
            (None, None) => None,
        };
        let started = started.map_or(Some(None), |read| read.map(Some))?;
        let near = near?;
        match (&strategy, &warmup) {
            (None, None) if near.is_none() => {
                let parts = "a warmup, localityLbSetting or zoneAwareLbSetting";
                value.refuse(format_args!(
                    "has one of simple and consistentHash, or {parts}"
                ));
                None
            }
            (Some(Strategy::ConsistentHash(_)), Some(warmup)) => {
                warmup.refuse("has no effect on consistentHash: each key has its endpoint at once");
                None
            }
            _ => Some((strategy, started, near)),
        }
    })
}

fn simple_strategy(value: &Value<'_>) -> Option<Strategy> {
    Some(match value.choice(SIMPLE)? {
        "PEAK_EWMA" => Strategy::PeakEwma,
        "RANDOM" => Strategy::Random,
        "ROUND_ROBIN" => Strategy::RoundRobin,
        _ => Strategy::LeastRequest,
    })
}

fn consistent_hash(value: &Value<'_>) -> Option<ConsistentHash> {
    value.object(|fields| {
        fields.refuse_all(&["minimumRingSize"], "is `ringHash.minimumRingSize`");
        let found = KEYS.map(|name| fields.get(name).map(|value| (name, value)));
        let (ring, maglev) = (fields.get("ringHash"), fields.get("maglev"));
        let found: Vec<_> = found.into_iter().flatten().collect();
        let ringed = ring.as_ref().map(ring_hash);
        let tabled = maglev.as_ref().map(maglev_table);
        let table = match (ringed, tabled) {
            (Some(_), Some(_)) => {
                value.refuse("has one of ringHash and maglev");
                return None;
            }
            (Some(read), None) | (None, Some(read)) => read?,
            (None, None) => HashTable::default(),
        };
        let key = one_key(value, &found, &KEYS)?;
        Some(ConsistentHash::by(key).through(table))
    })
}

/// The one key that is there, among those that may be.
fn one_key(value: &Value<'_>, found: &[(&str, Value<'_>)], may_be: &[&str]) -> Option<HashKey> {
    // Each is read, for its problems.
    let mut keys: Vec<_> = found.iter().map(|(name, value)| key(name, value)).collect();
    match (keys.pop(), keys.is_empty()) {
        (Some(key), true) => key,
        _ => {
            value.refuse(format_args!("has one of {}", may_be.join(", ")));
            None
        }
    }
}

/// `trafficSplit`: the key by which users stay in their parts of a split, in the same words. There is no
/// table: each backend is scored.
pub(super) fn traffic_split(value: &Value<'_>) -> Option<TrafficSplit> {
    value.object(|fields| {
        fields.need("consistentHash")?.object(|fields| {
            let scored = "has no effect on a split, where each backend is scored";
            fields.refuse_all(&["maglev", "minimumRingSize", "ringHash"], scored);
            let own = "is the same for all users of the workload that asks";
            fields.refuse_all(&["useSourceIp"], own);
            let may_be = &KEYS[..3];
            let mut found = Vec::new();
            for name in may_be {
                found.extend(fields.get(name).map(|value| (*name, value)));
            }
            let key = one_key(fields.whole(), &found, may_be)?;
            value.check(TrafficSplit::by(key))
        })
    })
}

/// A key by its field.
fn key(name: &str, value: &Value<'_>) -> Option<HashKey> {
    match name {
        "httpCookie" => cookie(value).map(HashKey::Cookie),
        "httpHeaderName" => {
            let name = HeaderName::from_bytes(value.text()?.as_bytes());
            value.check(HashKey::header(value.check(name)?))
        }
        "httpQueryParameterName" => match value.text()? {
            "" => {
                value.refuse("is empty");
                None
            }
            name => Some(HashKey::QueryParameter(name.into())),
        },
        _ => match value.boolean()? {
            true => Some(HashKey::SourceIp),
            false => {
                value.refuse("is false, which names no key");
                None
            }
        },
    }
}

fn cookie(value: &Value<'_>) -> Option<HashCookie> {
    value.object(|fields| {
        fields.refuse_all(&["attributes"], UNUSED);
        let name = fields.need("name");
        let (path, ttl) = (fields.get("path"), fields.get("ttl"));
        let path = match path {
            Some(path) => Some(path.text()?),
            None => None,
        };
        let ttl = match ttl {
            Some(ttl) => Some(ttl.check(text::duration(ttl.text()?))?),
            None => None,
        };
        value.check(HashCookie::new(name?.text()?, path, ttl))
    })
}

fn ring_hash(value: &Value<'_>) -> Option<HashTable> {
    value.object(|fields| {
        let size = match fields.get("minimumRingSize") {
            Some(size) => size.check(RingSize::new(size.integer()?))?,
            None => RingSize::default(),
        };
        Some(HashTable::Ring(size))
    })
}

fn maglev_table(value: &Value<'_>) -> Option<HashTable> {
    value.object(|fields| {
        let size = match fields.get("tableSize") {
            Some(size) => size.check(TableSize::new(size.integer()?))?,
            None => TableSize::default(),
        };
        Some(HashTable::Maglev(size))
    })
}

/// What is near, if it is said.
fn nearness(fields: &mut Fields<'_>) -> Option<Option<Nearness>> {
    let (locality, zones) = (
        fields.get("localityLbSetting"),
        fields.get("zoneAwareLbSetting"),
    );
    // Each is read, for its problems.
    let preferred = locality.as_ref().map(locality_setting);
    let even = zones.as_ref().map(zone_aware_setting);
    match (preferred, even) {
        (Some(_), Some(_)) => {
            let whole = fields.whole();
            whole.refuse("has one of localityLbSetting and zoneAwareLbSetting");
            None
        }
        (Some(read), None) | (None, Some(read)) => read.map(Some),
        (None, None) => Some(None),
    }
}

fn locality_setting(value: &Value<'_>) -> Option<Nearness> {
    value.object(|fields| {
        fields.refuse_all(&["distribute", "failover"], UNUSED);
        let (enabled, by) = (fields.get("enabled"), fields.get("failoverPriority"));
        if !is_enabled(enabled.as_ref(), by.as_ref())? {
            return Some(Nearness::Anywhere);
        }
        let Some(by) = by else {
            let levels = Preference::new([Level::Region, Level::Zone]);
            return value.check(levels).map(Nearness::Prefer);
        };
        let mut levels = Vec::new();
        for label in by.list_of(LEVELS.len())? {
            let label_of = label.choice(&LEVELS.map(Level::label))?;
            levels.extend(LEVELS.into_iter().find(|level| level.label() == label_of));
        }
        by.check(Preference::new(levels)).map(Nearness::Prefer)
    })
}

fn zone_aware_setting(value: &Value<'_>) -> Option<Nearness> {
    value.object(|fields| {
        fields.refuse_all(&["failover", "failoverPriority"], UNUSED);
        let (enabled, least) = (fields.get("enabled"), fields.get("minClusterSize"));
        let callers = fields.get("callers");
        if !is_enabled(enabled.as_ref(), least.as_ref().or(callers.as_ref()))? {
            return Some(Nearness::Anywhere);
        }
        let mut by = ZoneAware::default();
        if let Some(least) = least {
            by = ZoneAware::new(least.integer()?);
        }
        if let Some(callers) = callers {
            let zones = callers.entries()?;
            if zones.len() > ZONES {
                callers.refuse(format_args!(
                    "has {} zones; {ZONES} are allowed",
                    zones.len()
                ));
            }
            let number = |(zone, n): &(&str, Value<'_>)| Some(((*zone).into(), n.integer()?));
            let numbers: Vec<_> = zones.iter().map(number).collect();
            let numbers = numbers.into_iter().collect::<Option<Vec<_>>>()?;
            by = callers.check(by.with_callers(numbers))?;
        }
        Some(Nearness::ZoneAware(by))
    })
}

/// Whether a setting is on, as it is where it does not say so. What would have no effect is refused.
fn is_enabled(enabled: Option<&Value<'_>>, more: Option<&Value<'_>>) -> Option<bool> {
    let enabled = enabled.map_or(Some(true), Value::boolean)?;
    if let Some(more) = more.filter(|_| !enabled) {
        more.refuse("has no effect where enabled is false");
    }
    Some(enabled)
}

fn slow_start(value: &Value<'_>) -> Option<SlowStart> {
    value.object(|fields: &mut Fields<'_>| {
        let (mut percent, mut aggression) = WARMUP;
        let window = fields.need("duration");
        let (least, growth) = (fields.get("minimumPercent"), fields.get("aggression"));
        if let Some(least) = least {
            percent = least.integer_in(1, 100)?;
        }
        if let Some(growth) = growth {
            aggression = growth.number()?;
        }
        let window = window?;
        let window = window.check(text::duration(window.text()?))?;
        value.check(SlowStart::new(window, percent, aggression))
    })
}
