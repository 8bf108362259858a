//! OpenSSH's known_hosts files: what they say of a host, and how a new host is recorded.
//!
//! Reading follows sshd(8) "SSH_KNOWN_HOSTS FILE FORMAT": hashed names, wildcards, negation,
//! `[host]:port`, `@revoked`, `@cert-authority`; lines that cannot be read are passed over. One rule is
//! stricter than OpenSSH's: a host that is known by another type of key counts as changed, because
//! otherwise accepting new hosts would accept whoever offers a type that was not recorded.

use super::error::KnownEntry;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hmac::{KeyInit as _, Mac as _};
use nix::fcntl::{Flock, FlockArg};
use russh::keys::{Algorithm, Certificate, HashAlg, PublicKey, ssh_key::certificate::CertType};
use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// What is on record, of all hosts.
#[derive(Debug, Default)]
pub struct KnownHosts {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    file: PathBuf,
    line: usize,
    marker: Marker,
    names: Names,
    key: PublicKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Marker {
    None,
    Revoked,
    Authority,
}

#[derive(Debug)]
enum Names {
    Patterns(Vec<Pattern>),
    Hashed { salt: Vec<u8>, hash: Vec<u8> },
}

#[derive(Debug)]
struct Pattern {
    negated: bool,
    glob: String,
}

/// What the files say of a host and the key that it offers.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Known,
    Unknown,
    /// The host is known, by other keys.
    Changed(Vec<KnownEntry>),
    Revoked(KnownEntry),
}

impl KnownHosts {
    /// Reads all `files`. One that does not exist says nothing; one that cannot be read is an error,
    /// for it might have said "changed".
    pub fn read(files: &[PathBuf]) -> Result<Self, (PathBuf, io::Error)> {
        let mut known = Self::default();
        for file in files {
            match fs::read(file) {
                Ok(bytes) => known.add(file, &String::from_utf8_lossy(&bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err((file.clone(), error)),
            }
        }
        Ok(known)
    }

    fn add(&mut self, file: &Path, text: &str) {
        let entries = text.lines().enumerate().filter_map(|(index, line)| {
            let (marker, names, key) = parse_line(line)?;
            Some(Entry { file: file.to_owned(), line: index + 1, marker, names, key })
        });
        self.entries.extend(entries);
    }

    /// Judges the plain key that `host` offers on `port`.
    pub fn judge(&self, host: &str, port: u16, key: &PublicKey) -> Verdict {
        let name = recorded_name(host, port);
        if let Some(revoked) = self.revocation(&name, key) {
            return Verdict::Revoked(revoked);
        }
        match self.judge_name(&name, key) {
            // A key that is recorded for the host on port 22 is good for its other ports, as with OpenSSH;
            // a record that differs says nothing, since each port may be another machine.
            Verdict::Unknown if port != 22 => match self.judge_name(&recorded_name(host, 22), key) {
                Verdict::Known if self.revocation(&recorded_name(host, 22), key).is_none() => Verdict::Known,
                _ => Verdict::Unknown,
            },
            verdict => verdict,
        }
    }

    fn judge_name(&self, name: &str, key: &PublicKey) -> Verdict {
        let known: Vec<_> = self.of(name, Marker::None).collect();
        if known.iter().any(|entry| entry.key.key_data() == key.key_data()) {
            return Verdict::Known;
        }
        if known.is_empty() {
            Verdict::Unknown
        } else {
            Verdict::Changed(known.iter().map(|e| e.describe()).collect())
        }
    }

    fn revocation(&self, name: &str, key: &PublicKey) -> Option<KnownEntry> {
        self.of(name, Marker::Revoked)
            .find(|entry| entry.key.key_data() == key.key_data())
            .map(Entry::describe)
    }

    /// Judges the certificate that `host` offers: `Err` says why it is not to be trusted.
    pub fn judge_certificate(&self, host: &str, port: u16, certificate: &Certificate) -> Result<(), String> {
        let name = recorded_name(host, port);
        let signer = PublicKey::from(certificate.signature_key().clone());
        let signed = PublicKey::from(certificate.public_key().clone());
        for key in [&signer, &signed] {
            if let Some(entry) = self.revocation(&name, key) {
                return Err(format!("its key is revoked by {entry}"));
            }
        }
        if !self.of(&name, Marker::Authority).any(|entry| entry.key.key_data() == signer.key_data()) {
            return Err("its authority is not in known_hosts".to_owned());
        }
        if certificate.cert_type() != CertType::Host {
            return Err("it is a user's certificate, not a host's".to_owned());
        }
        if !certificate.critical_options().is_empty() {
            return Err("it carries critical options that nobody here understands".to_owned());
        }
        let host = host.to_lowercase();
        if !certificate.valid_principals().iter().any(|pattern| glob_matches(&pattern.to_lowercase(), &host))
        {
            return Err(format!("it is for {}", certificate.valid_principals().join(", ")));
        }
        certificate
            .validate([&signer.fingerprint(HashAlg::Sha256)])
            .map_err(|error| format!("its signature or its time of validity does not hold ({error})"))
    }

    /// The types of keys that are on record for a host. They are asked for first, so that a host with
    /// several keys offers one that can be compared.
    pub fn algorithms(&self, host: &str, port: u16) -> Vec<Algorithm> {
        let name = recorded_name(host, port);
        let mut found: Vec<_> = self.of(&name, Marker::None).map(|entry| entry.key.algorithm()).collect();
        if found.is_empty() && port != 22 {
            found =
                self.of(&recorded_name(host, 22), Marker::None).map(|entry| entry.key.algorithm()).collect();
        }
        found.dedup();
        found
    }

    /// Whether an authority vouches for the host, so that it is worth asking for a certificate.
    pub fn has_authority(&self, host: &str, port: u16) -> bool {
        self.of(&recorded_name(host, port), Marker::Authority).next().is_some()
    }

    fn of<'a>(&'a self, name: &'a str, marker: Marker) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| entry.marker == marker && entry.names.contain(name))
    }
}

impl Entry {
    fn describe(&self) -> KnownEntry {
        KnownEntry {
            file: self.file.clone(),
            line: self.line,
            algorithm: self.key.algorithm().to_string(),
            fingerprint: self.key.fingerprint(HashAlg::Sha256).to_string(),
        }
    }
}

impl Names {
    fn parse(field: &str) -> Option<Self> {
        if let Some(hashed) = field.strip_prefix("|1|") {
            let (salt, hash) = hashed.split_once('|')?;
            return Some(Self::Hashed { salt: BASE64.decode(salt).ok()?, hash: BASE64.decode(hash).ok()? });
        }
        let pattern = |text: &str| match text.strip_prefix('!') {
            Some(rest) => Pattern { negated: true, glob: rest.to_lowercase() },
            None => Pattern { negated: false, glob: text.to_lowercase() },
        };
        Some(Self::Patterns(field.split(',').map(pattern).collect()))
    }

    fn contain(&self, name: &str) -> bool {
        match self {
            Self::Hashed { salt, hash } => keyed_hash(salt, name).as_slice() == hash,
            Self::Patterns(patterns) => {
                let mut matches =
                    patterns.iter().filter(|pattern| glob_matches(&pattern.glob, name)).peekable();
                matches.peek().is_some() && matches.all(|pattern| !pattern.negated)
            }
        }
    }
}

fn parse_line(line: &str) -> Option<(Marker, Names, PublicKey)> {
    let mut fields = line.split_ascii_whitespace();
    let mut names = fields.next().filter(|field| !field.starts_with('#'))?;
    let marker = match names {
        "@revoked" => Marker::Revoked,
        "@cert-authority" => Marker::Authority,
        _ if names.starts_with('@') => return None,
        _ => Marker::None,
    };
    if marker != Marker::None {
        names = fields.next()?;
    }
    let (algorithm, key) = (fields.next()?, fields.next()?);
    Some((marker, Names::parse(names)?, PublicKey::from_openssh(&format!("{algorithm} {key}")).ok()?))
}

/// The name that a host has in known_hosts files.
pub fn recorded_name(host: &str, port: u16) -> String {
    let host = host.to_lowercase();
    if port == 22 { host } else { format!("[{host}]:{port}") }
}

fn keyed_hash(salt: &[u8], name: &str) -> Vec<u8> {
    match hmac::Hmac::<sha1::Sha1>::new_from_slice(salt) {
        Ok(mac) => mac.chain_update(name.as_bytes()).finalize().into_bytes().to_vec(),
        Err(_) => Vec::new(),
    }
}

/// Matches `*` (any run of characters) and `?` (one character), in linear space and without recursion.
fn glob_matches(glob: &str, text: &str) -> bool {
    let (glob, text) = (glob.as_bytes(), text.as_bytes());
    let (mut at_glob, mut at_text) = (0, 0);
    let mut retry = None;
    while at_text < text.len() {
        match glob.get(at_glob) {
            Some(b'*') => {
                retry = Some((at_glob + 1, at_text));
                at_glob += 1;
            }
            Some(&wanted) if wanted == b'?' || wanted == text[at_text] => {
                at_glob += 1;
                at_text += 1;
            }
            _ => match retry {
                Some((after_star, from)) => {
                    retry = Some((after_star, from + 1));
                    (at_glob, at_text) = (after_star, from + 1);
                }
                None => return false,
            },
        }
    }
    glob[at_glob..].iter().all(|&byte| byte == b'*')
}

/// Records the key of a new host at the end of `file`. Looks again under a lock first: what another
/// process has recorded meanwhile wins. The file is written beside and renamed; its folder is made.
pub fn remember(file: &Path, host: &str, port: u16, key: &PublicKey, hashed: bool) -> io::Result<Verdict> {
    // `UserKnownHostsFile=/dev/null` is how people say "do not keep it".
    if file == Path::new("/dev/null") {
        return Ok(Verdict::Known);
    }
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let folder = file.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.exists() {
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    }
    let _lock = Flock::lock(File::open(folder)?, FlockArg::LockExclusive)
        .map_err(|(_, errno)| io::Error::from(errno))?;

    let (mut text, mode, owner) = match (fs::read(&file), fs::metadata(&file)) {
        (Ok(bytes), Ok(meta)) => (bytes, meta.permissions().mode() & 0o777, Some((meta.uid(), meta.gid()))),
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound => (Vec::new(), 0o600, None),
        (Err(error), _) | (_, Err(error)) => return Err(error),
    };
    let mut known = KnownHosts::default();
    known.add(&file, &String::from_utf8_lossy(&text));
    match known.judge(host, port, key) {
        Verdict::Unknown => {}
        verdict => return Ok(verdict),
    }
    if text.last().is_some_and(|&byte| byte != b'\n') {
        text.push(b'\n');
    }
    let name = recorded_name(host, port);
    let name = if hashed { hashed_name(&name) } else { name };
    let blob = key.to_openssh().map_err(io::Error::other)?;
    let blob: Vec<_> = blob.split_ascii_whitespace().take(2).collect();
    writeln!(text, "{name} {}", blob.join(" "))?;

    let mut beside = tempfile::Builder::new()
        .prefix(".known_hosts.")
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(folder)?;
    beside.write_all(&text)?;
    if let Some((uid, gid)) = owner {
        let _ = std::os::unix::fs::fchown(beside.as_file(), Some(uid), Some(gid));
    }
    beside.as_file().sync_all()?;
    beside.persist(&file).map_err(|failure| failure.error)?;
    Ok(Verdict::Known)
}

fn hashed_name(name: &str) -> String {
    let salt: [u8; 20] = rand::random();
    format!("|1|{}|{}", BASE64.encode(salt), BASE64.encode(keyed_hash(&salt, name)))
}

#[cfg(test)]
#[path = "known_hosts_tests.rs"]
mod tests;
