//! What a CA in a cluster needs of the API server: reviews of tokens, Secrets for its state, a place
//! for its roots, and requests for certificates that it signs.

mod review;
mod roots;
mod secrets;
mod signer;

pub use review::TokenReviews;
pub use roots::RootPublisher;
pub use secrets::SecretStore;
pub use signer::CertificateSigner;
