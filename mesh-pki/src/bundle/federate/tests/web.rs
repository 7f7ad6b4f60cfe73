//! Our endpoint with a certificate of the web: before our own fetch of https_web, and while its files
//! change.

use std::path::PathBuf;

use super::*;
use crate::pem;
use crate::testing::Draft;

/// Whether an error is the one that is expected.
type Expected = fn(&WebCertificateError) -> bool;

/// A folder with a certificate of the web and its key.
struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        // In one step: half a file would be a failure of its own.
        std::fs::write(self.path("new"), content).unwrap();
        std::fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    fn open(&self) -> Result<WebCertificate, WebCertificateError> {
        WebCertificate::open(self.path("tls.crt"), self.path("tls.key"), &crypto())
    }
}

/// A certificate for `localhost`, and its key.
fn web_leaf() -> Draft {
    let names = vec![SanType::DnsName("localhost".try_into().unwrap())];
    leaf("spiffe://unused/x").with(|params| params.subject_alt_names = names)
}

fn cert_pem(draft: &Draft, ca: &Ca) -> String {
    pem::encode_certificates([&draft.signed_by(ca)])
}

/// Our endpoint over a socket, with a certificate of the web under `ca`.
struct Served {
    port: u16,
    status: StatusReader<WebCertificateStatus>,
    task: JoinHandle<()>,
    _writer: IdentityWriter,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Served {
    async fn new(dir: &Dir, bundle: TrustBundle) -> Self {
        // No SVID: nothing of it is needed.
        let (writer, reader) = identity(IdentityState::from_bundles(bundle.into()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let clock = ManualClock::new(noon()).shared();
        let web = dir.open().unwrap().with_interval(Duration::from_millis(5));
        let status = web.status();
        let domain = domain("other.example");
        let endpoint = BundleEndpoint::new(domain, "/bundle", reader, &crypto(), clock)
            .with_web_certificate(web);
        let task = tokio::spawn(endpoint.serve(listener, pending()));
        Self {
            port,
            status,
            task,
            _writer: writer,
        }
    }

    async fn ask(&self, proof: ServerProof, root: &Ca) -> Result<TrustBundle, FetchError> {
        let url = format!("https://localhost:{}/bundle", self.port);
        get_by(&url.parse().unwrap(), proof, root).await
    }

    async fn until(&mut self, holds: impl Fn(&WebCertificateStatus) -> bool) {
        while !holds(&self.status.load()) {
            self.status.changed().await.unwrap();
        }
    }
}

#[tokio::test]
async fn our_endpoint_is_its_host_under_the_roots_of_the_web() {
    let (root, own) = (Ca::new("web"), Ca::new("root"));
    let (dir, draft) = (Dir::new(), web_leaf());
    dir.write("tls.crt", &cert_pem(&draft, &root));
    dir.write("tls.key", &draft.key.serialize_pem());
    let bundle = own.bundle("other.example").with_sequence(3);
    let served = Served::new(&dir, bundle.clone()).await;
    let fetched = served.ask(ServerProof::Web, &root).await.unwrap();
    assert_eq!(fetched, bundle.with_refresh_hint(DEFAULT_REFRESH));
    assert_eq!(served.status.load().not_after, Some(noon() + minutes(30)));
    // It is no SVID, and no other root vouches for it.
    for (proof, root) in [(by_id(&own)(), &root), (ServerProof::Web, &own)] {
        let error = served.ask(proof, root).await.unwrap_err();
        assert!(matches!(error, FetchError::Tls { .. }), "{error}");
    }
}

#[tokio::test]
async fn new_files_are_served_and_broken_ones_keep_the_old() {
    let (first, second) = (Ca::new("first"), Ca::new("second"));
    let (dir, draft) = (Dir::new(), web_leaf());
    dir.write("tls.crt", &cert_pem(&draft, &first));
    dir.write("tls.key", &draft.key.serialize_pem());
    let mut served = Served::new(&dir, first.bundle("other.example")).await;
    served.ask(ServerProof::Web, &first).await.unwrap();

    // The certificate is there before its key: the old pair serves.
    let next = web_leaf().with(|params| params.not_after = (noon() + minutes(90)).into());
    dir.write("tls.crt", &cert_pem(&next, &second));
    served.until(|status| status.last_error.is_some()).await;
    let error = served.status.load().last_error.unwrap();
    assert!(
        matches!(*error, WebCertificateError::Mismatch { .. }),
        "{error}"
    );
    served.ask(ServerProof::Web, &first).await.unwrap();
    assert!(served.ask(ServerProof::Web, &second).await.is_err());

    dir.write("tls.key", &next.key.serialize_pem());
    served.until(|status| status.last_error.is_none()).await;
    let now = served.status.load();
    assert_eq!((now.loads, now.not_after), (2, Some(noon() + minutes(90))));
    served.ask(ServerProof::Web, &second).await.unwrap();
    assert!(served.ask(ServerProof::Web, &first).await.is_err());

    // Rubbish, and nothing at all.
    for (name, content) in [("tls.key", Some("rubbish")), ("tls.crt", None)] {
        let failures = served.status.load().failures;
        match content {
            Some(content) => dir.write(name, content),
            None => std::fs::remove_file(dir.path(name)).unwrap(),
        }
        served.until(|status| status.failures > failures).await;
        served.ask(ServerProof::Web, &second).await.unwrap();
    }
}

#[test]
fn files_are_a_pair_or_named_in_the_error() {
    let (root, dir, draft) = (Ca::new("web"), Dir::new(), web_leaf());
    let cert = cert_pem(&draft, &root);
    dir.write("tls.crt", &cert);
    let is_io = |error: &WebCertificateError| matches!(error, WebCertificateError::Io { path, .. } if path.ends_with("tls.key"));
    assert!(is_io(&dir.open().unwrap_err()));

    let mut rubbish = String::new();
    pem::encode(&mut rubbish, "CERTIFICATE", &[0x30, 0]);
    let key = draft.key.serialize_pem();
    let mut broken = String::new();
    pem::encode(&mut broken, "PRIVATE KEY", &[0x30, 0]);
    let cases: [(&str, &str, Expected); 6] = [
        (
            "",
            &key,
            |e| matches!(e, WebCertificateError::Pem { path, source: pem::PemError::NoCertificate } if path.ends_with("tls.crt")),
        ),
        (&rubbish, &key, |e| {
            matches!(e, WebCertificateError::Malformed { .. })
        }),
        (
            &cert,
            "",
            |e| matches!(e, WebCertificateError::Pem { path, source: pem::PemError::NoKey } if path.ends_with("tls.key")),
        ),
        (&cert, &key.repeat(2), |e| {
            matches!(
                e,
                WebCertificateError::Pem {
                    source: pem::PemError::ManyKeys,
                    ..
                }
            )
        }),
        (&cert, &broken, |e| {
            matches!(e, WebCertificateError::Key { .. })
        }),
        (&cert, &web_leaf().key.serialize_pem(), |e| {
            matches!(e, WebCertificateError::Mismatch { .. })
        }),
    ];
    for (at, (cert, key, expected)) in cases.into_iter().enumerate() {
        dir.write("tls.crt", cert);
        dir.write("tls.key", key);
        let error = dir.open().unwrap_err();
        assert!(expected(&error), "case {at}: {error:?}");
        // No message quotes a key.
        let said = format!("{error:?}");
        assert!(key.lines().nth(1).is_none_or(|line| !said.contains(line)));
    }
    dir.write("tls.crt", &(cert + &key));
    let both = dir.path("tls.crt");
    WebCertificate::open(&both, &both, &crypto()).unwrap();
}
