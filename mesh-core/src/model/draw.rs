//! Randomness as a value: a decision is given a [`Draw`] and derives from it what it needs.

/// The random numbers of one request, derived from a single seed.
///
/// Equal seeds give equal decisions, so that a request can be explained and a run simulated.
/// The generator is SplitMix64: each derived number mixes the seed with a counter.
///
/// ```
/// use inmesh_core::model::Draw;
/// let (mut a, mut b) = (Draw::new(7), Draw::new(7));
/// assert_eq!(a.below(100), b.below(100));
/// ```
#[derive(Debug, Clone)]
pub struct Draw {
    state: u64,
}

impl Draw {
    /// Starts from a seed; the runtime takes it from a random number generator, a test writes it.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A number in `0..n`, and 0 if `n` is 0. The bias is below `n / 2^64`.
    pub fn below(&mut self, n: u64) -> u64 {
        let wide = u128::from(self.bits()) * u128::from(n);
        u64::try_from(wide >> 64).unwrap_or_default()
    }

    /// An index in `0..len`, and 0 if `len` is 0.
    pub fn index(&mut self, len: usize) -> usize {
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        usize::try_from(self.below(len)).unwrap_or_default()
    }
}

/// SplitMix64's finalizer: nearby inputs give unrelated outputs. It is no secret and the same in
/// every process, so keys that are hashed with it lead to the same endpoint everywhere.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A hash of bytes by [`mix`]; like it, the same in every process.
pub(crate) fn mix_bytes(bytes: &[u8]) -> u64 {
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    bytes.chunks(8).fold(mix(length), |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash ^ u64::from_le_bytes(word)).wrapping_add(0x9e37_79b9_7f4a_7c15)
    })
}
