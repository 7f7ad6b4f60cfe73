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
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..n`, and 0 where `n` is 0. The bias is below `n / 2^64`.
    pub fn below(&mut self, n: u64) -> u64 {
        let wide = u128::from(self.bits()) * u128::from(n);
        u64::try_from(wide >> 64).unwrap_or_default()
    }

    /// A number in `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        // 53 bits are what a f64 holds exactly.
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit a f64")]
        let unit = (self.bits() >> 11) as f64 / (1_u64 << 53) as f64;
        unit
    }
}
