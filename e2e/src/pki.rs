//! Certificates, keys and kubeconfigs of a cluster.
//!
//! One CA for clients and servers, one for the aggregation layer, ECDSA P-256 throughout. Files are `<name>.crt`,
//! `<name>.key` and `<name>.kubeconfig`.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::layout::{CONTROL_PLANE, Layout, SERVICE};

/// Why a cluster has no certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// Making one failed.
    #[error("cannot make the certificate {name}")]
    Make {
        /// File name without extension.
        name: String,
        /// The cause.
        source: rcgen::Error,
    },
    /// Writing one failed.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

/// What a certificate is for.
#[derive(Clone, Copy)]
enum Use {
    Client,
    Server,
    Both,
}

type Authority = Issuer<'static, KeyPair>;

/// Writes everything.
///
/// # Errors
/// [`PkiError`] with the name of the certificate or file.
pub fn create(layout: &Layout) -> Result<(), PkiError> {
    let folder = layout.pki();
    fs::create_dir_all(&folder).map_err(|source| PkiError::Write { path: folder.clone(), source })?;
    let ca = authority(&folder, "ca", "e2e-ca")?;
    authority(&folder, "front-ca", "e2e-front-ca")?;

    let (plane, service) = (CONTROL_PLANE.to_string(), SERVICE.to_string());
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "localhost",
        &plane,
        &service,
        "127.0.0.1",
    ];
    issue(&folder, &ca, "apiserver", "", "kube-apiserver", Use::Server, &names)?;
    issue(&folder, &ca, "etcd", "", "etcd", Use::Both, &["localhost", "127.0.0.1"])?;
    issue(&folder, &ca, "etcd-client", "", "apiserver", Use::Client, &[])?;
    issue(&folder, &ca, "kubelet-client", "", "kube-apiserver-kubelet-client", Use::Client, &[])?;
    for (name, group, user) in [
        ("admin", "system:masters", "admin"),
        ("kcm", "", "system:kube-controller-manager"),
        ("scheduler", "", "system:kube-scheduler"),
    ] {
        issue(&folder, &ca, name, group, user, Use::Client, &[])?;
        kubeconfig(&folder, name)?;
    }
    for node in &layout.nodes {
        let user = format!("system:node:{}", node.name);
        issue(&folder, &ca, &node.name, "system:nodes", &user, Use::Client, &[])?;
        kubeconfig(&folder, &node.name)?;
        let serving = format!("{}-serving", node.name);
        let names = [node.name.as_str(), &node.address().to_string()];
        issue(&folder, &ca, &serving, "system:nodes", &user, Use::Server, &names)?;
    }
    let accounts = KeyPair::generate().map_err(|source| PkiError::Make { name: "sa".into(), source })?;
    write(&folder.join("sa.key"), &accounts.serialize_pem())?;
    write(&folder.join("sa.pub"), &accounts.public_key_pem())
}

fn authority(folder: &Path, name: &str, common_name: &str) -> Result<Authority, PkiError> {
    let make = || -> Result<_, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, common_name);
        let pem = params.self_signed(&key)?.pem();
        Ok((pem, key.serialize_pem(), Issuer::new(params, key)))
    };
    let (pem, key, issuer) = make().map_err(|source| PkiError::Make { name: name.into(), source })?;
    write(&folder.join(format!("{name}.crt")), &pem)?;
    write(&folder.join(format!("{name}.key")), &key)?;
    Ok(issuer)
}

fn issue(
    folder: &Path,
    ca: &Authority,
    name: &str,
    group: &str,
    user: &str,
    usage: Use,
    subjects: &[&str],
) -> Result<(), PkiError> {
    let make = || -> Result<_, rcgen::Error> {
        let key = KeyPair::generate()?;
        let subjects: Vec<String> = subjects.iter().map(|s| (*s).to_owned()).collect();
        let mut params = CertificateParams::new(subjects)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match usage {
            Use::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Use::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Use::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.distinguished_name.push(DnType::CommonName, user);
        if !group.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        Ok((params.signed_by(&key, ca)?.pem(), key.serialize_pem()))
    };
    let (certificate, key) = make().map_err(|source| PkiError::Make { name: name.into(), source })?;
    write(&folder.join(format!("{name}.crt")), &certificate)?;
    write(&folder.join(format!("{name}.key")), &key)
}

/// A kubeconfig that names its certificate files.
fn kubeconfig(folder: &Path, name: &str) -> Result<(), PkiError> {
    let file = |suffix: &str| folder.join(format!("{name}.{suffix}"));
    let ca_file = folder.join("ca.crt");
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "e2e", "cluster": {
            "server": format!("https://{CONTROL_PLANE}:443"), "certificate-authority": ca_file}}],
        "users": [{"name": name, "user": {"client-certificate": file("crt"), "client-key": file("key")}}],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": name}}],
        "current-context": "e2e",
    });
    write(&file("kubeconfig"), &config.to_string())
}

fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    use std::os::unix::fs::OpenOptionsExt;
    let open = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    open.and_then(|mut f| std::io::Write::write_all(&mut f, text.as_bytes()))
        .map_err(|source| PkiError::Write { path: path.to_owned(), source })
}
