//! What the kernel shows of our table.

/// The rules that the kernel has, as it shows them: two that are equal have the same effect.
///
/// ```
/// use inmesh_ebpf::redirect::Applied;
/// assert_eq!(Applied::default().rules(), 0);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied(Vec<Shown>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    chain: String,
    /// As the kernel writes them.
    expressions: Vec<u8>,
}

// === impl Applied ===

impl Applied {
    /// How many rules there are.
    ///
    /// ```no_run
    /// let applied = inmesh_ebpf::redirect::applied()?;
    /// println!("{} rules", applied.map_or(0, |applied| applied.rules()));
    /// # Ok::<(), inmesh_ebpf::redirect::RedirectError>(())
    /// ```
    #[must_use]
    pub fn rules(&self) -> usize {
        self.0.len()
    }

    /// Adds a rule, behind the others.
    #[cfg(target_os = "linux")]
    pub(super) fn push(&mut self, chain: String, expressions: &[u8]) {
        let expressions = expressions.to_vec();
        self.0.push(Shown { chain, expressions });
    }
}
