//! Whom the client trusts.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use receiptd::dingtalk::{Client, ClientError, Failure, Page};
use receiptd::receipt::{Chat, Disposition};
use receiptd::settings::Endpoint;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, crypto::ring};

use super::server::{self, Reply, Server, endpoint};

const PAGE: &str = r#"{"sendStatus":"SUCCESS"}"#;

/// A private authority's certificate as PEM, and a server that it vouches for under `name`.
async fn private_server(name: &str) -> (String, Server) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);

    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let server = Server::start_with(vec![Reply::json(200, PAGE); 2], Some(acceptor)).await;
    (ca_pem, server)
}

fn https(server: &Server, ca_file: &Path) -> Endpoint {
    let mut endpoint = endpoint(&format!("https://localhost:{}", server.address.port()));
    endpoint.ca_file = Some(ca_file.to_owned());
    endpoint
}

async fn ask(endpoint: &Endpoint) -> Result<Page, Failure> {
    server::ask(&Client::new(endpoint).unwrap(), Chat::Private).await
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_it_is_given() {
    let (ca, server) = private_server("localhost").await;
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, format!("# ours\n{ca}")).unwrap();
    ask(&https(&server, &ca_file)).await.unwrap();
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_wrong_certificate_is_refused() {
    let (_, stranger) = private_server("localhost").await;
    let (other_ca, misnamed) = private_server("somewhere.example").await;
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, other_ca).unwrap();
    // Signed by nobody we know; and signed by one we know, for another name.
    for server in [&stranger, &misnamed] {
        let failure = ask(&https(server, &ca_file)).await.unwrap_err();
        assert_eq!(failure.code.as_str(), "tls.certificate", "{failure:?}");
        assert_eq!(failure.disposition, Disposition::Retry);
        assert!(!failure.metered);
        assert!(server.requests().is_empty(), "the token stayed here");
    }
}

#[tokio::test]
async fn a_server_without_tls_gets_no_token() {
    let server = Server::start(vec![Reply::json(200, PAGE)]).await;
    let (ca, _) = private_server("localhost").await;
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, ca).unwrap();
    // Its reading of a TLS hello as a request never ends, so the client's patience does.
    let mut endpoint = https(&server, &ca_file);
    endpoint.connect_timeout = std::time::Duration::from_millis(200);
    let failure = ask(&endpoint).await.unwrap_err();
    assert_eq!(failure.disposition, Disposition::Retry);
    assert!(!failure.metered, "{failure:?}");
    assert!(server.requests().is_empty());
}

#[test]
fn a_useless_ca_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.pem");
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let cases = [
        ("empty.pem", ""),
        ("text.pem", "hello"),
        ("garbage.pem", garbage),
    ];
    let mut files = vec![missing];
    for (name, content) in cases {
        let file = directory.path().join(name);
        std::fs::write(&file, content).unwrap();
        files.push(file);
    }
    for file in files {
        for base in ["https://localhost:1", "http://127.0.0.1:1"] {
            let mut endpoint = endpoint(base);
            endpoint.ca_file = Some(file.clone());
            let error = Client::new(&endpoint).unwrap_err();
            assert!(matches!(error, ClientError::Ca(_)), "{error:?}");
            let text = error.to_string();
            assert!(text.starts_with("endpoint.ca_file "), "{text}");
            assert!(text.contains(file.to_str().unwrap()), "{text}");
        }
    }
}
