//! Rules about which crate depends on which, read from `cargo tree`.

use super::violation::Violation;

/// A package, the features it is looked at with, and what must not stand below it.
pub(super) struct Rule {
    package: &'static str,
    manifest: &'static str,
    features: &'static str,
    /// A name, or a name and a dash: `kube` also bans `kube-client`.
    banned: &'static [&'static str],
    why: &'static str,
    todo: &'static str,
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        package: "inmesh-core",
        manifest: "mesh-core/Cargo.toml",
        features: "--all-features",
        banned: &[
            "aya",
            "hickory",
            "kube",
            "notify",
            "inmesh-discovery",
            "inmesh-ebpf",
            "inmesh-cli",
        ],
        why: "the data plane knows no source of configuration and no kernel",
        todo: "implement its port (`discover::Source`) in mesh-discovery or mesh-ebpf instead",
    },
    Rule {
        package: "inmesh-core",
        manifest: "mesh-core/Cargo.toml",
        features: "--no-default-features",
        banned: &["aws-lc-rs", "hyper-util", "ring", "socket2", "tokio-rustls"],
        why: "without features it is vocabulary, decisions and layers, without sockets",
        todo: "put the dependency behind the feature `runtime`",
    },
    Rule {
        package: "inmesh-pki",
        manifest: "mesh-pki/Cargo.toml",
        features: "--all-features",
        banned: &[
            "inmesh-core",
            "inmesh-discovery",
            "inmesh-ebpf",
            "inmesh-cli",
        ],
        why: "identity is the bottom of the graph and usable alone",
        todo: "move what is shared down, or the user of both up",
    },
    Rule {
        package: "inmesh-discovery",
        manifest: "mesh-discovery/Cargo.toml",
        features: "--all-features",
        banned: &["inmesh-ebpf", "inmesh-cli"],
        why: "discovery and the kernel side meet only in mesh-cli",
        todo: "move what is shared down to mesh-core",
    },
    Rule {
        package: "inmesh-ebpf",
        manifest: "mesh-ebpf/Cargo.toml",
        features: "--all-features",
        banned: &["inmesh-discovery", "inmesh-cli"],
        why: "discovery and the kernel side meet only in mesh-cli",
        todo: "move what is shared down to mesh-core",
    },
];

impl Rule {
    /// The arguments for `cargo` that list the packages below this one, one a line.
    pub(super) fn arguments(&self) -> [&'static str; 8] {
        [
            "tree",
            "-p",
            self.package,
            "-e",
            "normal",
            "--prefix=none",
            "--format={p}",
            self.features,
        ]
    }

    /// Checks the lines that `cargo` printed.
    pub(super) fn check(&self, tree: &str) -> Vec<Violation> {
        let mut names: Vec<&str> = tree
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| self.bans(name))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
            .into_iter()
            .map(|name| {
                let what = format!("{} ({}) depends on {name}", self.package, self.features);
                Violation::error(self.manifest, 1, what, self.why, self.todo)
            })
            .collect()
    }

    fn bans(&self, name: &str) -> bool {
        self.banned.iter().any(|banned| {
            name.strip_prefix(banned)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
    }
}
