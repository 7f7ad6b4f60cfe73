//! What a CA in a cluster needs of the API server: reviews of tokens, and Secrets for its state.

mod review;
mod secrets;

pub use review::TokenReviews;
pub use secrets::SecretStore;
