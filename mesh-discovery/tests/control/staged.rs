//! A document that is staged, at processes that count how requests fare.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use inmesh_core::model::{Kind, Namespace, ObjectKey, ServiceName};
use inmesh_core::testing::World;
use inmesh_core::{Body, Mesh};
use inmesh_discovery::control::Follow;
use inmesh_discovery::manifest::parse;
use inmesh_discovery::stage::{Offer, Stages, mark};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tower::{ServiceExt, service_fn};

use crate::{LIMIT, Plane, Result, defaults, source, until, without_lead};

/// A server that follows the control plane, under a name of its process.
async fn server(world: &World, plane: &Plane, instance: &str) -> Result<(Mesh, SocketAddr)> {
    let source = source(world, "cart", plane.address)?.instance(instance);
    let mesh = world
        .mesh("cart")?
        .source(source)
        .limits(without_lead())
        .start()?;
    timeout(LIMIT, mesh.ready()).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let serving = mesh.clone();
    tokio::spawn(async move {
        let app = service_fn(|_: Request<Body>| async {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        });
        serving.serve(listener, app).await;
    });
    Ok((mesh, address))
}

/// A Service with both servers.
fn service(at: &[SocketAddr]) -> String {
    let slices = at.iter().enumerate().map(|(nth, at)| {
        format!(
            "---
{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
  metadata: {{name: cart-{nth}, namespace: shop, labels: {{kubernetes.io/service-name: cart}},
    annotations: {{inmesh.dev/transport: mesh, inmesh.dev/ids: spiffe://example.org/ns/shop/sa/cart}}}},
  ports: [{{name: http, port: {}}}], endpoints: [{{addresses: [{}]}}]}}
",
            at.port(),
            at.ip()
        )
    });
    let service = "{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {ports: [{name: http, port: 80, appProtocol: http}]}}\n";
    service.to_owned() + &slices.collect::<String>()
}

fn policy(paths: &str) -> String {
    format!(
        "{{apiVersion: inmesh.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {{name: cart, namespace: shop}}, \
         spec: {{action: DENY, rules: [{{to: [{{operation: {{paths: [{paths}]}}}}]}}]}}}}"
    )
}

/// As it is handed on.
fn text(document: &str) -> Result<Arc<str>> {
    let parsed = parse("a.yaml", document, &defaults().documents())?;
    let entry = parsed.entries.into_iter().next();
    Ok(entry
        .and_then(|entry| entry.document)
        .ok_or("it is handed on")?)
}

async fn get(mesh: &Mesh, path: &str) -> Result<StatusCode> {
    let request = Request::get(format!("http://cart{path}")).body(Empty::<Bytes>::new())?;
    Ok(timeout(LIMIT, mesh.client().oneshot(request))
        .await??
        .status())
}

/// A policy of servers fails at those that have it, and not at callers on the other side.
#[tokio::test]
async fn a_policy_is_counted_where_it_decides() -> Result<()> {
    let (world, dir) = (World::new()?, TempDir::new()?);
    let (now, then) = (policy("/never"), policy("/never, /some"));
    fs::write(dir.path().join("policy.yaml"), &now)?;
    let plane = Plane::begin(&world, dir.path()).await?;
    let stages = Stages::new();
    let handing = plane.plane.clone().stages(&stages);
    let (one, two) = (
        server(&world, &plane, "cart-1").await?,
        server(&world, &plane, "cart-2").await?,
    );
    fs::write(dir.path().join("cart.yaml"), service(&[one.1, two.1]))?;
    let follow = Follow::Asked(vec![ServiceName::new(&Namespace::new("shop")?, "cart")?]);
    let web = source(&world, "web", plane.address)?.follow(follow);
    let web = world
        .mesh("web")?
        .source(web)
        .limits(without_lead())
        .start()?;
    timeout(LIMIT, web.ready()).await?;
    until("both servers are known", || {
        let name =
            ServiceName::new(&Namespace::new("shop").expect("a name"), "cart").expect("a name");
        let known = web.snapshot().load();
        let endpoints = known
            .service(&name)
            .and_then(|service| service.endpoints(80));
        endpoints.is_some_and(|endpoints| endpoints.members().len() == 2)
    })
    .await;
    assert_eq!(get(&web, "/some").await?, StatusCode::OK);

    // One of the servers has it, and the caller does not.
    let ids = [("cart", "cart-1"), ("cart", "cart-2"), ("web", "web")];
    let marks = |stage: &str| -> Result<[u64; 3]> {
        let mut marks = [0; 3];
        for (place, (of, instance)) in marks.iter_mut().zip(ids) {
            *place = mark(world.crypto(), stage, world.id(of)?.as_str(), instance);
        }
        Ok(marks)
    };
    let (mut nth, mut bound) = (0, u64::MAX);
    while bound == u64::MAX {
        nth += 1;
        let [one, two, web] = marks(&format!("a{nth}"))?;
        if one.min(two) < web {
            bound = one.min(two);
        }
    }
    let id = format!("a{nth}");
    let key = ObjectKey::new(Kind::AuthorizationPolicy, &Namespace::new("shop")?, "cart")?;
    let offer = Offer::new(&id, key, &text(&now)?, &text(&then)?);
    stages.set(Some(Arc::new(offer.clone())));
    until("all members answer", || stages.tally(&id).members == 3).await;
    stages.set(Some(Arc::new(offer.to(bound))));
    until("members are on both sides", || {
        let tally = stages.tally(&id);
        (tally.canary.members, tally.rest.members) == (1, 2)
    })
    .await;
    let mut denied = 0;
    for _ in 0..40 {
        denied += u64::from(get(&web, "/some").await? == StatusCode::FORBIDDEN);
    }
    assert!(
        (1..40).contains(&denied),
        "{denied} of 40: one of two servers"
    );
    // Each request is one of the caller and one of a server.
    until("it is counted", || {
        let tally = stages.tally(&id);
        tally.canary.requests + tally.rest.requests == 80
    })
    .await;
    let tally = stages.tally(&id);
    assert_eq!(
        (tally.canary.requests, tally.canary.failed),
        (denied, denied)
    );
    assert_eq!((tally.rest.requests, tally.rest.failed), (80 - denied, 0));
    // Taken back: nothing is counted any more, and all is as before.
    stages.set(None);
    until("all have what there was", || {
        let status = handing.status();
        status.behind == 0 && stages.tally(&id).members == 0
    })
    .await;
    for _ in 0..10 {
        assert_eq!(get(&web, "/some").await?, StatusCode::OK);
    }
    drop((one, two));
    Ok(())
}
