//! What a CA in a cluster needs of the API server: reviews of tokens, Secrets for its state, and a place
//! for its roots.

mod review;
mod roots;
mod secrets;

pub use review::TokenReviews;
pub use roots::RootPublisher;
pub use secrets::SecretStore;
