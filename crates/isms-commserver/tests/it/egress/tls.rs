//! What a server must prove before it hears anything.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use isms_commserver::EgressConfig;
use isms_protocol::{ErrorCode, commserver::Fetch};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio_rustls::TlsAcceptor;

use super::harness::{Connection, Egress, Server, get, ok};

/// An authority of the test's own.
fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server whose certificate holds these names and is good in these years; answers `said`, and counts who
/// got so far as to ask.
async fn serve(
    authority: &CertifiedIssuer<'static, KeyPair>,
    names: &[&str],
    years: std::ops::Range<i32>,
    said: String,
) -> (Server, Arc<AtomicUsize>) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = date_time_ymd(years.start, 1, 1);
    params.not_after = date_time_ymd(years.end, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let server = Server::start(move |connection| {
        let (acceptor, counted, said) = (acceptor.clone(), counted.clone(), said.clone());
        async move {
            let Ok(stream) = acceptor.accept(connection.into_stream()).await else {
                return;
            };
            let mut connection = Connection::new(stream);
            if !connection.head().await.is_empty() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            connection.send(said).await;
        }
    })
    .await;
    (server, asked)
}

fn egress(granted: &[String], ca_pem: &str) -> Egress {
    let config = EgressConfig {
        allow: vec!["127.0.0.0/8:*".parse().unwrap()],
        ca_pem: ca_pem.to_owned(),
    };
    let egress = Egress::with_config(granted, config);
    egress.names.set("api.test", &[&["127.0.0.1"]]);
    egress
}

const GOOD: std::ops::Range<i32> = 2000..4000;

#[tokio::test]
async fn a_server_with_a_certificate_of_the_administrator_s_authority_is_trusted() {
    let authority = authority("a");
    let (server, asked) = serve(&authority, &["api.test", "127.0.0.1"], GOOD, ok("hello")).await;
    let granted = [format!("api.test:{}", server.port()), server.address.to_string()];
    let egress = egress(&granted, &authority.pem());
    for server in &granted {
        let fetched = egress.get(&format!("https://{server}/")).await.unwrap();
        assert_eq!((fetched.head.status, &*fetched.text()), (200, "hello"));
    }
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn an_unknown_expired_or_foreign_certificate_is_refused_before_anything_is_said() {
    let (known, unknown) = (authority("a"), authority("b"));
    let cases = [
        (&unknown, &["api.test"][..], GOOD, "UnknownIssuer"),
        (&known, &["api.test"], 2000..2001, "expired"),
        (&known, &["api.test"], 3000..3001, "not valid yet"),
        (
            &known,
            &["other.test", "xapi.test", "127.0.0.1"],
            GOOD,
            "not valid for name",
        ),
        (&known, &["*.api.test"], GOOD, "not valid for name"),
    ];
    for (authority, names, years, why) in cases {
        let (server, asked) = serve(authority, names, years, ok("hello")).await;
        let granted = [format!("api.test:{}", server.port())];
        let (code, message) = egress(&granted, &known.pem())
            .refused(&format!("https://{}/", granted[0]))
            .await;
        assert_eq!(code, ErrorCode::Unavailable, "{message}");
        assert!(message.contains(why), "{why}: {message}");
        assert_eq!(asked.load(Ordering::Relaxed), 0, "{why}");
    }
    // Without the administrator's file only the public authorities count.
    let (server, asked) = serve(&known, &["api.test"], GOOD, ok("hello")).await;
    let granted = [format!("api.test:{}", server.port())];
    let refused = egress(&granted, "")
        .refused(&format!("https://{}/", granted[0]))
        .await;
    assert!(refused.1.contains("UnknownIssuer"), "{}", refused.1);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn https_never_becomes_http() {
    let plain = Server::start(|mut connection| async move {
        connection.send("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let authority = authority("a");
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n",
        plain.url("/")
    );
    let (server, _asked) = serve(&authority, &["127.0.0.1"], GOOD, redirect).await;
    let granted = [server.address.to_string(), plain.address.to_string()];
    let egress = egress(&granted, &authority.pem());
    let fetch = Fetch {
        redirects_max: 5,
        ..get(&format!("https://{}/", server.address))
    };
    let error = egress.fetch(&fetch).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Forbidden);
    assert!(error.message.contains("from https to http"), "{error}");

    let (code, message) = egress.refused(&format!("https://{}/", plain.address)).await;
    assert_eq!(code, ErrorCode::Unavailable, "a server without TLS: {message}");
    assert!(message.contains("no trusted connection"), "{message}");
    assert_eq!(plain.count(), 1, "the second one alone");
}
