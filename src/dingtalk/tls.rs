//! Which certificates are trusted: the system's, and those of `[endpoint] ca_file`.

use std::path::{Path, PathBuf};

use reqwest::Certificate;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Why `ca_file` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// It could not be read.
    #[error("endpoint.ca_file {path}: cannot be read: {source}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What it holds is no certificate.
    #[error("endpoint.ca_file {path}: {reason}; it must hold certificates as PEM")]
    Useless {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Makes ring the process's source of cryptography. reqwest panics without one; a program that chose another keeps it.
pub(super) fn install_provider() {
    // Refused only where one is installed already, which is all that is needed.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The certificates in `path`, each tried for use as a root so that the error can name the file.
pub(super) fn read_roots(path: &Path) -> Result<Vec<Certificate>, CaError> {
    let useless = |reason: String| CaError::Useless {
        path: path.to_owned(),
        reason,
    };
    let pem = std::fs::read(path).map_err(|source| CaError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let mut trial = RootCertStore::empty();
    let mut roots = Vec::new();
    for found in CertificateDer::pem_slice_iter(&pem) {
        let der = found.map_err(|error| useless(error.to_string()))?;
        trial
            .add(der.clone())
            .map_err(|error| useless(error.to_string()))?;
        roots.push(Certificate::from_der(&der).map_err(|error| useless(error.to_string()))?);
    }
    if roots.is_empty() {
        return Err(useless("no certificate in it".to_owned()));
    }
    Ok(roots)
}
