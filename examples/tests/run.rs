//! Runs every example; each ends in its own asserts.

macro_rules! examples {
    ($($name:ident = $path:literal),* $(,)?) => {$(
        #[path = $path]
        mod $name;

        #[test]
        fn $name() {
            if let Err(e) = $name::main() {
                panic!("{e}");
            }
        }
    )*};
}

examples! {
    ab = "../ab.rs",
    blue_green = "../blue_green.rs",
    canary = "../canary.rs",
    embed_client = "../embed_client.rs",
    embed_grpc = "../embed_grpc.rs",
    embed_server = "../embed_server.rs",
    mtls_pair = "../mtls_pair.rs",
}
