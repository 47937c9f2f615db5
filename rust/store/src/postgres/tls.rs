//! Encrypted connections, and who is trusted to be the server: libpq's `sslmode`, by rustls.

use std::error::Error;
use std::fs::File;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use postgres::Socket;
use postgres::config::SslMode;
use postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as Encrypted;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use super::url::Options;

/// Where systems keep the certificates that everybody trusts; `SSL_CERT_FILE` goes before.
const OF_SYSTEM: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// How a connection is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum TlsMode {
    /// Never.
    Disable,
    /// If the server can. Nobody checks who it is.
    #[default]
    Prefer,
    /// Always. Nobody checks who it is.
    Require,
    /// Always, with a server that somebody trusted vouches for.
    VerifyChain,
    /// The same, and that is vouched for under the name by which it was reached.
    VerifyName,
}

impl TlsMode {
    /// What libpq calls so.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "disable" => Self::Disable,
            "prefer" | "allow" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyChain,
            "verify-full" => Self::VerifyName,
            _ => return None,
        })
    }

    /// What is asked of the server.
    pub(super) fn asked(self) -> SslMode {
        match self {
            Self::Disable => SslMode::Disable,
            Self::Prefer => SslMode::Prefer,
            Self::Require | Self::VerifyChain | Self::VerifyName => SslMode::Require,
        }
    }

    /// Whether the server must prove who it is.
    fn verifies(self) -> bool {
        matches!(self, Self::VerifyChain | Self::VerifyName)
    }
}

/// Makes connections encrypted, all in the same way.
#[derive(Clone)]
pub(super) struct Tls(TlsConnector);

impl Tls {
    /// Reads the certificates that the options name. The error says which file is wrong.
    pub(super) fn new(options: &Options) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let roots = if options.tls.verifies() { read_roots(options.root_certificates.as_deref())? } else { Vec::new() };
        let verifier = Verifier::new(options.tls, roots, &provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be set up: {error}"))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match &options.client_certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = read_certificates(certificate, "sslcert")?;
                let read = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable("sslkey", key, &error))?;
                builder.with_client_auth_cert(chain, read).map_err(|error| {
                    format!(
                        "the certificate {} and the key {} cannot be used: {error}",
                        certificate.display(),
                        key.display()
                    )
                })?
            }
        };
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }
}

/// The certificates in a file, or those of the system.
fn read_roots(file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, String> {
    if let Some(file) = file {
        return read_certificates(file, "sslrootcert");
    }
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let found = named.into_iter().chain(OF_SYSTEM.map(PathBuf::from)).find(|file| File::open(file).is_ok());
    match found {
        Some(file) => read_certificates(&file, "the system's certificates"),
        None => {
            Err("this system has no certificates of authorities that it trusts; name a file with sslrootcert=".into())
        }
    }
}

fn read_certificates(file: &Path, option: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => Err(unreadable(option, file, &pem::Error::NoItemsFound)),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unreadable(option, file, &error)),
    }
}

fn unreadable(option: &str, file: &Path, error: &pem::Error) -> String {
    let why = match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "it has none in PEM format".to_owned(),
        error => format!("it is not in PEM format: {error:?}"),
    };
    format!("{option} cannot be read from {}: {why}", file.display())
}

/// Decides whether a server is the one that is meant.
#[derive(Debug)]
struct Verifier {
    /// What must hold.
    mode: TlsMode,
    /// Checks that somebody trusted vouches for a certificate; `None`: nobody asks.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// What is trusted. A server's own certificate may be among it.
    roots: Vec<CertificateDer<'static>>,
    /// Checks signatures.
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(mode: TlsMode, roots: Vec<CertificateDer<'static>>, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        let chain = if mode.verifies() {
            let mut store = RootCertStore::empty();
            let (usable, _) = store.add_parsable_certificates(roots.iter().cloned());
            if usable == 0 {
                return Err("none of the certificates of sslrootcert can be used".to_owned());
            }
            let built = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone()).build();
            Some(built.map_err(|error| format!("the certificates of sslrootcert cannot be used: {error}"))?)
        } else {
            None
        };
        Ok(Self { mode, chain, roots, provider: provider.clone() })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        if self.roots.iter().any(|root| root.as_ref() == certificate.as_ref()) {
            // A certificate that vouches for itself is trusted as what it is, not as an authority.
            if self.mode == TlsMode::VerifyName {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        match chain.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // The name is what is checked last.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.mode == TlsMode::VerifyChain => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

type Boxed = Box<dyn Error + Send + Sync>;

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Stream;
    type TlsConnect = ToHost;
    type Error = Boxed;

    fn make_tls_connect(&mut self, host: &str) -> Result<ToHost, Boxed> {
        // A Unix socket has no host, and is not encrypted.
        let name = if host.is_empty() { "localhost" } else { host };
        Ok(ToHost { connector: self.0.clone(), name: ServerName::try_from(name.to_owned())? })
    }
}

/// Makes one connection encrypted.
pub(super) struct ToHost {
    /// How.
    connector: TlsConnector,
    /// Whom the server must be.
    name: ServerName<'static>,
}

impl TlsConnect<Socket> for ToHost {
    type Stream = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move { self.connector.connect(self.name, socket).await.map(|it| Stream(Box::new(it))) })
    }
}

/// An encrypted connection.
pub(super) struct Stream(Box<Encrypted<Socket>>);

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(context)
    }
}
