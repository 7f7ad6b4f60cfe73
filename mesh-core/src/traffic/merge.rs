//! The nearest policy for each block.

use std::sync::Arc;

use super::Traffic;
use super::policy::{Blocks, Target, TrafficPolicy};
use crate::balance::Nearness;
use crate::model::{Block, Namespace, ObjectKey, Service, ServiceName, Workload};
use crate::route::Inherited;

/// How near a policy is to a request; the first is the nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Part,
    Whole,
    Namespace,
    Mesh,
}

/// What serves a port of a Service: the blocks of the nearest policies, what the Service says itself, and
/// what the process was built with.
pub(crate) fn of_port(
    policies: &[Arc<TrafficPolicy>],
    (service, port): (&Service, &str),
    built: &Arc<Traffic>,
) -> Arc<Traffic> {
    let near = sorted(policies, |policy| {
        level_of_port(policy, &service.name, port)
    });
    let mut said = service.distribution.map(|said| {
        let value = Nearness::from(said);
        let from = Some(service.key());
        Block { value, from }
    });
    if near.is_empty() && said.is_none() {
        return Arc::clone(built);
    }
    let mut traffic = Traffic::clone(built);
    // The nearest comes last, and stays.
    for (level, policy) in near.iter().rev() {
        // A Service is nearer than a default, and a policy for it is nearer than what it says itself.
        if *level <= Level::Whole && said.is_some() {
            traffic.nearness = said.take();
        }
        let from = Some(policy.key.clone());
        let blocks = &policy.blocks;
        if let Some(value) = blocks.strategy.clone() {
            let from = from.clone();
            traffic.strategy = Block { value, from };
        }
        if let Some(value) = blocks.warmup {
            let from = from.clone();
            traffic.warmup = Some(Block { value, from });
        }
        if let Some(value) = blocks.nearness.clone() {
            let from = from.clone();
            traffic.nearness = Some(Block { value, from });
        }
        if let Some(value) = blocks.limits {
            let from = from.clone();
            traffic.limits = Block { value, from };
        }
        if let Some(value) = blocks.eject {
            let from = from.clone();
            traffic.eject = Block { value, from };
        }
        if let Some(value) = blocks.check.clone() {
            traffic.check = Some(Block::of(value, &policy.key));
        }
        if let Some(value) = blocks.budget {
            let from = from.clone();
            traffic.budget = Block { value, from };
        }
        if let Some(value) = blocks.proxy_protocol {
            traffic.proxy_protocol = Some(Block::of(value, &policy.key));
        }
        if let Some(value) = blocks.timeouts {
            traffic.timeouts = Some(Block::of(value, &policy.key));
        }
        if let Some(value) = blocks.retry.clone() {
            traffic.retry = Some(Block::of(value, &policy.key));
            // Of the two the nearer one holds; what is not hedged is repeated as the other says.
            traffic.hedge = None;
        }
        if let Some(value) = blocks.hedge.clone() {
            let from = from.clone();
            traffic.hedge = Some(Block { value, from });
        }
        if let Some(value) = blocks.session.clone() {
            traffic.session = Some(Block::of(value, &policy.key));
        }
        if let Some(value) = blocks.fault.clone() {
            traffic.fault = Some(Block { value, from });
        }
    }
    if said.is_some() {
        traffic.nearness = said;
    }
    Arc::new(traffic)
}

/// What a rule of a route takes from the policies for it.
pub(crate) fn of_rule(
    policies: &[Arc<TrafficPolicy>],
    route: &ObjectKey,
    rule: Option<&str>,
) -> Inherited {
    let near = sorted(policies, |policy| level_of_rule(policy, route, rule));
    let near: Vec<_> = near.into_iter().map(|(_, policy)| policy).collect();
    let timeouts = near.iter().find_map(|p| Some((p, p.blocks.timeouts?)));
    let retry = near.iter().find_map(|p| Some((p, p.blocks.retry.clone()?)));
    // Of the two the nearer one holds.
    let hedge = { near.iter() }.take_while(|p| p.blocks.retry.is_none());
    let hedge = { hedge }.find_map(|p| Some((p, p.blocks.hedge.clone()?)));
    let fault = near.iter().find_map(|p| Some((p, p.blocks.fault.clone()?)));
    let split = near.iter().find_map(|p| Some((p, p.blocks.split.clone()?)));
    let session = near
        .iter()
        .find_map(|p| Some((p, p.blocks.session.clone()?)));
    Inherited {
        session: session.map(|(policy, value)| Block::of(value, &policy.key)),
        timeouts: timeouts.map(|(policy, value)| Block::of(value, &policy.key)),
        retry: retry.map(|(policy, value)| Block::of(value, &policy.key)),
        hedge: hedge.map(|(policy, value)| Box::new(Block::of(value, &policy.key))),
        fault: fault.map(|(policy, value)| Block::of(value, &policy.key)),
        split: split.map(|(policy, value)| Block::of(value, &policy.key)),
    }
}

/// A block of what a workload takes; `mesh_wide` is the namespace whose defaults are the mesh's.
pub(crate) fn of_workload<T>(
    policies: &[Arc<TrafficPolicy>],
    workload: &Workload,
    mesh_wide: Option<&Namespace>,
    block: impl Fn(&Blocks) -> Option<T>,
) -> Option<Block<T>> {
    let near = sorted(policies, |policy| {
        level_of_workload(policy, workload, mesh_wide)
    });
    let mut near = near.into_iter();
    near.find_map(|(_, policy)| Some(Block::of(block(&policy.blocks)?, &policy.key)))
}

/// The policies that reach something, nearest first; of equal ones the oldest, then by name.
fn sorted(
    policies: &[Arc<TrafficPolicy>],
    level: impl Fn(&TrafficPolicy) -> Option<Level>,
) -> Vec<(Level, &TrafficPolicy)> {
    let ranked = policies.iter().filter_map(|policy| {
        let age = policy.created.unwrap_or(i64::MAX);
        Some(((level(policy)?, age, &policy.key), &**policy))
    });
    let mut ranked: Vec<_> = ranked.collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    let levels = ranked.into_iter();
    levels
        .map(|((level, ..), policy)| (level, policy))
        .collect()
}

fn level_of_port(policy: &TrafficPolicy, service: &ServiceName, port: &str) -> Option<Level> {
    if policy.targets.is_empty() {
        let own: &Namespace = &policy.key.namespace;
        return Some(match own == service.namespace() {
            true => Level::Namespace,
            false => Level::Mesh,
        });
    }
    let levels = policy.targets.iter().filter_map(|target| match target {
        Target::Service(of, part) if of == service => level_of_part(part.as_deref(), Some(port)),
        _ => None,
    });
    levels.min()
}

/// The level of a target that is the whole, or a part of this name.
fn level_of_part(wanted: Option<&str>, part: Option<&str>) -> Option<Level> {
    match wanted {
        None => Some(Level::Whole),
        Some(_) => (wanted == part).then_some(Level::Part),
    }
}

fn level_of_workload(
    policy: &TrafficPolicy,
    workload: &Workload,
    mesh_wide: Option<&Namespace>,
) -> Option<Level> {
    let own = policy.key.namespace == workload.namespace;
    if policy.targets.is_empty() {
        let mesh = Some(&policy.key.namespace) == mesh_wide;
        return match own {
            true => Some(Level::Namespace),
            false => mesh.then_some(Level::Mesh),
        };
    }
    let labels = &workload.labels;
    let mut selected = policy.targets.iter().filter(|target| match target {
        Target::Workloads(wanted) => wanted.iter().all(|(k, v)| labels.get(k) == Some(v)),
        _ => false,
    });
    selected.next().filter(|_| own).map(|_| Level::Whole)
}

fn level_of_rule(policy: &TrafficPolicy, route: &ObjectKey, rule: Option<&str>) -> Option<Level> {
    let levels = policy.targets.iter().filter_map(|target| match target {
        Target::Route(of, part) if of == route => level_of_part(part.as_deref(), rule),
        _ => None,
    });
    levels.min()
}
