//! `mesh explain`: what would become of a request, and why.

mod page;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use inmesh_core::explain::{Explanation, Outcome, Question};
use inmesh_core::pki::id::{SpiffeId, TrustDomain};
use inmesh_discovery::testing::World;
use serde_json::{Value, json};

use crate::fetch::AdminAddress;
use crate::{fetch, term, world};

/// Says what would become of a request, step by step, by what a folder of documents says or by what a
/// running agent knows: nothing is sent.
///
/// The functions that decide live requests are asked: the canonical path, policies of both sides, routes,
/// the split, the endpoint, copies, time limits. Exits 0 if the request would reach an endpoint or a route answers it, 1 if it
/// is refused, 2 if it cannot be asked.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh explain deploy 'GET http://cart/items' --from spiffe://td.test/ns/shop/sa/web
  mesh explain deploy http://cart/items -X POST -H 'x-user: 7' --draw 3
  mesh explain deploy tcp://db:5432 --json
  mesh explain deploy tcp://edge:443 --sni a.example.com
  mesh explain deploy 'CONNECT db:5432'                       # a tunnel through the listener
  mesh explain 'GET http://cart/items'                        # asks the running agent
  mesh explain --admin 127.0.0.1:15010 http://cart/items      # another one, with loads and ejections

A document that is refused is left out, as an agent leaves it out, and named on standard error.
Names are not resolved; addresses of 192.0.2.0/24 stand for them.")]
pub(crate) struct Explain {
    /// The folder of documents, and the request: GET http://HOST/PATH, http://HOST:PORT/PATH,
    /// tcp://HOST:PORT or CONNECT HOST:PORT. Without a folder a running agent is asked.
    #[arg(value_names = ["DIR", "REQUEST"], num_args = 1..=2, required = true)]
    asked: Vec<String>,
    /// The folder of documents.
    #[arg(long, value_name = "DIR", conflicts_with = "admin")]
    dir: Option<PathBuf>,
    /// The admin address of the agent that is asked, as HOST:PORT or http://HOST:PORT; without it, and
    /// without a folder, that of MESH_ADMIN or 127.0.0.1:15000.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<AdminAddress>,
    /// The method.
    #[arg(short = 'X', long = "request", value_name = "METHOD")]
    method: Option<String>,
    /// A header field of the request; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The SPIFFE ID of the caller; without it, that of the agent.
    #[arg(long, value_name = "SPIFFE-ID")]
    from: Option<SpiffeId>,
    /// The trust domain of the folder's workload, where its agent's file does not say it.
    #[arg(long, value_name = "TRUST-DOMAIN", conflicts_with = "admin")]
    trust_domain: Option<TrustDomain>,
    /// The address that the caller connects from, where a hash of it leads to the endpoint; without it,
    /// the caller is a program that embeds the mesh.
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// The server that the TLS handshake of a tcp:// connection names; empty is TLS that names none.
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// A label of the workload that is asked, if its EndpointSlice does not have it; may be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// The seed of what is drawn: the split, the endpoint.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    draw: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.explain() {
            Ok(Outcome::Refused) => Ok(ExitCode::from(1)),
            Ok(_) => Ok(ExitCode::SUCCESS),
            Err(error) => {
                term::error(&error);
                Ok(ExitCode::from(2))
            }
        }
    }

    fn explain(&self) -> anyhow::Result<Outcome> {
        let (dir, line) = match (&self.dir, &self.asked[..]) {
            (Some(dir), [line]) => (Some(&**dir), line),
            (None, [line]) => (None, line),
            (None, [dir, line]) => (Some(Path::new(dir)), line),
            _ => bail!("the folder is given twice"),
        };
        if dir.is_some() && self.admin.is_some() {
            bail!("a folder and an agent are given; ask one of them");
        }
        let question = self.question(line)?;
        let own = self.trust_domain.as_ref();
        if dir.is_none() && own.is_some() {
            bail!("--trust-domain is of a folder; an agent knows its own");
        }
        let world = dir.map(|dir| world::read(dir, own)).transpose()?;
        let explanation = match &world {
            Some(world) => in_folder(world, &question)?,
            None => self.at_agent(&question)?,
        };
        if self.json {
            let out = shown(&explanation, world.as_ref())?;
            term::print(&serde_json::to_string_pretty(&out)?);
        } else {
            term::print(&page::of(&explanation, world.as_ref()));
        }
        Ok(explanation.verdict.outcome)
    }

    fn question(&self, line: &str) -> anyhow::Result<Question> {
        let mut question = Question::parse(line)?.draw(self.draw);
        if let Some(method) = &self.method {
            question = question.method(method)?;
        }
        for header in &self.headers {
            question = question.header(header)?;
        }
        for label in &self.labels {
            question = question.label(label)?;
        }
        if let Some(sni) = &self.sni {
            question = question.sni(sni)?;
        }
        if let Some(address) = self.address {
            question = question.address(address);
        }
        Ok(match &self.from {
            Some(from) => question.from(from.clone()),
            None => question,
        })
    }

    fn at_agent(&self, question: &Question) -> anyhow::Result<Explanation> {
        let path = format!("/explain?{}", question.to_query());
        let admin = match &self.admin {
            Some(admin) => admin.clone(),
            None => super::status::At::usual()?,
        };
        let asking = fetch::admin(http::Method::POST, &admin, &path);
        let said = super::runtime(None)?.block_on(asking)?;
        serde_json::from_str(&said).context("the agent's explanation cannot be read")
    }
}

fn in_folder(world: &World, question: &Question) -> anyhow::Result<Explanation> {
    for problem in world.problems() {
        term::warn(&problem.to_string());
    }
    let seen = world.ask(&world.asked(question));
    if let Some(why) = world.anonymous(&seen) {
        term::warn(&format!("{why}; say --from, or --trust-domain"));
    }
    Ok(seen)
}

/// The explanation with the places of the objects that it names.
fn shown(explanation: &Explanation, world: Option<&World>) -> anyhow::Result<Value> {
    let mut out = serde_json::to_value(explanation)?;
    if let (Value::Object(fields), Some(world)) = (&mut out, world) {
        let named = page::objects(explanation);
        let places = named.iter().filter_map(|object| {
            let at = world.place(object)?;
            Some((object.to_string(), json!(at.to_string())))
        });
        fields.insert("places".into(), Value::Object(places.collect()));
        let stand_ins = world.stand_ins().iter();
        let stand_ins: serde_json::Map<_, _> = stand_ins
            .map(|(host, address)| (address.to_string(), json!(host.to_string())))
            .collect();
        fields.insert("stand_ins".into(), Value::Object(stand_ins));
    }
    Ok(out)
}
