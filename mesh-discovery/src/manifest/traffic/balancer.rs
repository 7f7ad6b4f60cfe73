//! `loadBalancer`: how an endpoint is chosen, and how a new one takes its share.
//!
//! The words are those of Istio's LoadBalancerSettings, and `PEAK_EWMA` is ours.

use http::HeaderName;
use inmesh_core::balance::{
    ConsistentHash, HashCookie, HashKey, HashTable, RingSize, SlowStart, Strategy, TableSize,
};

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

/// A strategy and a slow start, of which one is there.
pub(super) type Balancer = (Option<Strategy>, Option<SlowStart>);

pub(super) fn read(value: &Value<'_>) -> Option<Balancer> {
    value.object(|fields| {
        fields.refuse_all(&["warmupDurationSecs"], "is `warmup.duration`");
        fields.refuse_all(&["localityLbSetting"], UNUSED);
        let (simple, hash) = (fields.get("simple"), fields.get("consistentHash"));
        let warmup = fields.get("warmup");
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
        match (&strategy, &warmup) {
            (None, None) => {
                value.refuse("has one of simple and consistentHash, or a warmup");
                None
            }
            (Some(Strategy::ConsistentHash(_)), Some(warmup)) => {
                warmup.refuse("has no effect on consistentHash: each key has its endpoint at once");
                None
            }
            _ => Some((strategy, started)),
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
        let mut keys: Vec<_> = found
            .into_iter()
            .flatten()
            .map(|(name, value)| key(name, &value))
            .collect();
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
        match (keys.pop(), keys.is_empty()) {
            (Some(key), true) => Some(ConsistentHash::by(key?).through(table)),
            _ => {
                value.refuse(format_args!("has one of {}", KEYS.join(", ")));
                None
            }
        }
    })
}

fn key(name: &str, value: &Value<'_>) -> Option<HashKey> {
    match name {
        "httpCookie" => cookie(value).map(HashKey::Cookie),
        "httpHeaderName" => {
            let name = HeaderName::from_bytes(value.text()?.as_bytes());
            value.check(name).map(HashKey::Header)
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
