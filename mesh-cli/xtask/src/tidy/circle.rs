//! No circle of files: files of a crate import each other in one direction.
//!
//! In: the sources of every crate, without tests. Out: one violation for each set of files that
//! reach each other. Why so: a file of a circle can only be read, tested and moved with all others.
//!
//! 1. Each leaf of a `use`, and each path in the code that starts with `crate`, `self` or `super`,
//!    names a file. A name that a file re-exports (`pub use`) leads to where it is defined.
//! 2. That file is imported. The `pub use` of a facade (`mod.rs`, `lib.rs`) imports nothing.
//! 3. Files that reach each other along these edges are a circle.

use std::collections::{BTreeMap, BTreeSet};

use super::source::Source;
use super::violation::Violation;

/// How many re-exports a name is followed through; ours take at most three.
const HOPS: usize = 10;

pub(super) fn check(sources: &[&Source<'_>]) -> Vec<Violation> {
    let mut crates: BTreeMap<&str, Crate<'_>> = BTreeMap::new();
    for source in sources {
        if let Some((name, file)) = source.path().split_once("/src/") {
            let files = &mut crates.entry(name).or_default().files;
            files.insert(module(file), source);
        }
    }
    crates.values().flat_map(Crate::circles).collect()
}

/// Where a module stands below its crate's root.
type Module<'a> = Vec<&'a str>;

/// What a file imports: the names, and the line of the first, by file.
type Imports<'s> = BTreeMap<Module<'s>, (usize, BTreeSet<&'s str>)>;

/// The files of a crate by their module.
#[derive(Default)]
struct Crate<'s> {
    files: BTreeMap<Module<'s>, &'s Source<'s>>,
}

/// `a/mod.rs` and `a.rs` are the module `a`; the root has no parts.
fn module(file: &str) -> Module<'_> {
    let mut parts: Module<'_> = file.trim_end_matches(".rs").split('/').collect();
    if parts.last() == Some(&"mod") || matches!(parts[..], ["lib" | "main"]) {
        parts.pop();
    }
    parts
}

impl<'s> Crate<'s> {
    fn circles(&self) -> Vec<Violation> {
        let imports: BTreeMap<_, _> = self
            .files
            .iter()
            .map(|(module, source)| (module, self.imports(module, source)))
            .collect();
        let reach: BTreeMap<_, _> = imports
            .keys()
            .map(|module| (*module, reachable(&imports, module)))
            .collect();
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for (module, reached) in &reach {
            let back = |other: &&&Module<'s>| reach[**other].contains(*module);
            let circle: BTreeSet<_> = reached.iter().filter(back).copied().collect();
            if circle.len() > 1 && seen.insert(circle.clone()) {
                found.extend(self.violation(&circle, &imports));
            }
        }
        found
    }

    /// The files that `module` imports.
    fn imports(&self, module: &Module<'s>, source: &'s Source<'s>) -> Imports<'s> {
        let facade = matches!(source.name(), "lib.rs" | "main.rs" | "mod.rs");
        let uses = source.live_uses().filter(|leaf| !(facade && leaf.public));
        let uses = uses.map(|leaf| (leaf.line, leaf.path.clone()));
        let inline = source
            .inline_paths()
            .into_iter()
            .filter(|(_, path)| path.len() > 1 && matches!(path[0], "crate" | "self" | "super"));
        let mut imports = Imports::new();
        for (line, path) in uses.chain(inline) {
            let target = self.resolve(&path, module, HOPS);
            if let Some(target) = target.filter(|target| target != module) {
                let (_, names) = imports.entry(target).or_insert((line, BTreeSet::new()));
                names.extend(path.last());
            }
        }
        imports
    }

    /// The file that defines what `path` names in `module`; `None` if it is of another crate.
    fn resolve(&self, path: &[&'s str], module: &Module<'s>, hops: usize) -> Option<Module<'s>> {
        let hops = hops.checked_sub(1)?;
        let mut at = module.clone();
        let mut rest = path;
        match *path.first()? {
            "crate" => (at, rest) = (Vec::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {
                while let Some((&"super", after)) = rest.split_first() {
                    at.pop();
                    rest = after;
                }
            }
            first => {
                self.child(&at, first)
                    .or_else(|| self.reexport(&at, first).map(|_| at.clone()))?;
            }
        }
        while let Some((name, after)) = rest.split_first() {
            if let Some(child) = self.child(&at, name) {
                at = child;
                rest = after;
            } else if let Some(leaf) = self.reexport(&at, name) {
                return self.resolve(&[leaf, after].concat(), &at, hops);
            } else {
                break;
            }
        }
        self.files.contains_key(&at).then_some(at)
    }

    fn child(&self, module: &Module<'s>, name: &'s str) -> Option<Module<'s>> {
        let child = [module.as_slice(), &[name]].concat();
        self.files.contains_key(&child).then_some(child)
    }

    fn reexport(&self, module: &Module<'s>, name: &str) -> Option<&'s [&'s str]> {
        let mut uses = self.files.get(module)?.live_uses();
        let leaf = uses.find(|leaf| leaf.public && leaf.path.last() == Some(&name))?;
        Some(&leaf.path)
    }

    fn violation(
        &self,
        circle: &BTreeSet<&Module<'s>>,
        imports: &BTreeMap<&Module<'s>, Imports<'s>>,
    ) -> Option<Violation> {
        let path = |module: &Module<'s>| self.files[module].path();
        let within = |module| imports[module].iter().filter(|(to, _)| circle.contains(to));
        let edges: Vec<String> = circle
            .iter()
            .flat_map(|module| {
                within(module).map(|(to, (_, names))| {
                    let names: Vec<_> = names.iter().copied().collect();
                    format!("{} -> {} ({})", path(module), path(to), names.join(", "))
                })
            })
            .collect();
        let first = circle.first()?;
        let line = within(first).map(|(_, (line, _))| *line).min()?;
        Some(Violation::error(
            path(first),
            line,
            format!("a circle of {} files: {}", circle.len(), edges.join(", ")),
            "files that import each other can only be read, tested and moved together",
            "move what both need into a file below them, or hand it in as an argument",
        ))
    }
}

/// Every file that `from` imports, directly or through others, in order.
fn reachable<'m, 's>(
    imports: &'m BTreeMap<&'m Module<'s>, Imports<'s>>,
    from: &'m Module<'s>,
) -> BTreeSet<&'m Module<'s>> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(module) = open.pop() {
        for to in imports[module].keys() {
            if reached.insert(to) {
                open.push(to);
            }
        }
    }
    reached
}
