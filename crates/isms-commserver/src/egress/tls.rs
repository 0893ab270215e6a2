//! What a server must prove over TLS.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use isms_protocol::{Host, HostPort};

/// Why the administrator's certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The text is not PEM.
    #[error("certificates of [egress] ca_file are not PEM: {0}")]
    Pem(rustls::pki_types::pem::Error),
    /// There is none.
    #[error("[egress] ca_file holds no certificate")]
    Empty,
    /// One cannot be trusted to sign others.
    #[error("a certificate of [egress] ca_file cannot be used: {0}")]
    Certificate(rustls::Error),
}

/// The settings of every connection: the public roots, and the administrator's beside them.
pub(crate) fn client(ca_pem: &str) -> Result<Arc<ClientConfig>, CaError> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if !ca_pem.is_empty() {
        let public = roots.len();
        for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            let certificate = certificate.map_err(CaError::Pem)?;
            roots.add(certificate).map_err(CaError::Certificate)?;
        }
        if roots.len() == public {
            return Err(CaError::Empty);
        }
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for each version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The name that a server's certificate must hold: the granted one.
pub(crate) fn server_name(server: &HostPort) -> ServerName<'static> {
    match &server.host {
        Host::Address(address) => ServerName::IpAddress((*address).into()),
        Host::Name(name) => {
            let name = ServerName::try_from(name.clone());
            name.expect("a host's name is a DNS name, by its parser")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_that_cannot_be_used_are_refused_and_none_are_needed() {
        assert!(client("").is_ok());
        assert!(matches!(client("hello"), Err(CaError::Empty)));
        let broken = "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n";
        assert!(matches!(client(broken), Err(CaError::Pem(_))));
        let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(client(nonsense), Err(CaError::Certificate(_))));
    }

    #[test]
    fn every_host_that_may_be_granted_is_a_name_for_tls() {
        for server in [
            "a.b:1",
            "localhost:1",
            "xn--bcher-kva.example:1",
            "1a.b:1",
            "127.0.0.1:1",
            "[::1]:1",
            "a--b.c:1",
        ] {
            server_name(&server.parse().expect(server));
        }
    }
}
