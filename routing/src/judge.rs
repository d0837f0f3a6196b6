//! Verifiers of certificates that differ only in whom they believe: the signatures of a handshake are checked alike.
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use std::fmt::Debug;
use std::sync::Arc;

/// Whose certificate is believed.
pub(crate) trait Judge: Debug + Send + Sync {
    /// As [`ServerCertVerifier::verify_server_cert`].
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error>;
}

/// Whose certificate is believed of those who dial us.
pub(crate) trait ClientJudge: Debug + Send + Sync {
    /// By the certificate alone: who signed it does not matter.
    fn verify_client(&self, end_entity: &CertificateDer<'_>) -> Result<(), rustls::Error>;
}

/// A judge, and the provider whose algorithms check what the certificate's holder has signed.
#[derive(Debug)]
pub(crate) struct Judged<J> {
    pub judge: J,
    pub provider: Arc<CryptoProvider>,
}

/// What both kinds of verifiers do alike.
macro_rules! check_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls12_signature(message, cert, signed, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls13_signature(message, cert, signed, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            let algorithms = &self.provider.signature_verification_algorithms;
            algorithms.supported_schemes()
        }
    };
}

impl<J: Judge> ServerCertVerifier for Judged<J> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let judge = &self.judge;
        judge.verify(end_entity, intermediates, server_name, ocsp, now)
    }

    check_signatures!();
}

impl<J: ClientJudge> ClientCertVerifier for Judged<J> {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge.verify_client(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    check_signatures!();
}
