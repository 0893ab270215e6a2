//! What a server must prove over TLS to an edge that is its client.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

/// Why the administrator's certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The text is not PEM.
    #[error("they are not PEM: {0}")]
    Pem(rustls::pki_types::pem::Error),
    /// There is none.
    #[error("there is none")]
    Empty,
    /// One cannot be trusted to sign others.
    #[error("one cannot be used: {0}")]
    Certificate(rustls::Error),
}

/// The settings of every connection: the public roots, and the administrator's beside them.
pub fn tls_client(ca_pem: &str) -> Result<Arc<ClientConfig>, CaError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_that_cannot_be_used_are_refused_and_none_are_needed() {
        assert!(tls_client("").is_ok());
        assert!(matches!(tls_client("hello"), Err(CaError::Empty)));
        let broken = "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n";
        assert!(matches!(tls_client(broken), Err(CaError::Pem(_))));
        let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(tls_client(nonsense), Err(CaError::Certificate(_))));
    }
}
