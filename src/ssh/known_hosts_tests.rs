use super::*;
use proptest::prelude::*;

const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDon8jx5rOvMNMr5OrTN1cSuwLjkHQBcgLyRsMqxlPK8";
const TWO: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAII8CzSEFUxcZG2z9wxC2wHhUf1+ETp1AKBWPabrW9Agw";
const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBGkMGmbUe+CxWJ6ztoIseLgxkuJpuEYcxQrbrITL/HCewNExhbmVFalIGUjP9YH4LTIRF5IVFT8c68sGP6AVSdI=";

fn key(text: &str) -> PublicKey {
    PublicKey::from_openssh(text).expect("a public key")
}

fn known(text: &str) -> KnownHosts {
    let mut known = KnownHosts::default();
    known.add(Path::new("/k"), text);
    known
}

fn judge(text: &str, host: &str, port: u16, offered: &str) -> &'static str {
    match known(text).judge(host, port, &key(offered)) {
        Verdict::Known => "known",
        Verdict::Unknown => "unknown",
        Verdict::Changed(_) => "changed",
        Verdict::Revoked(_) => "revoked",
    }
}

#[test]
fn judges_as_openssh_does() {
    let cases = [
        (format!("pg1 {ONE}"), "pg1", 22, ONE, "known"),
        (format!("pg1 {ONE}"), "PG1", 22, ONE, "known"),
        (format!("pg1 {ONE}"), "pg2", 22, ONE, "unknown"),
        (format!("pg1 {ONE}"), "pg1", 22, TWO, "changed"),
        (format!("pg1 {ECDSA}"), "pg1", 22, ONE, "changed"),
        (format!("pg1 {ECDSA}\npg1 {ONE}"), "pg1", 22, ONE, "known"),
        (format!("a,pg1,10.0.0.1 {ONE} a comment"), "10.0.0.1", 22, ONE, "known"),
        (format!("[pg1]:2222 {ONE}"), "pg1", 2222, ONE, "known"),
        (format!("[pg1]:2222 {ONE}"), "pg1", 22, ONE, "unknown"),
        (format!("pg1 {ONE}"), "pg1", 2222, ONE, "known"),
        (format!("pg1 {ONE}"), "pg1", 2222, TWO, "unknown"),
        (format!("*.lab,!bad.lab {ONE}"), "pg1.lab", 22, ONE, "known"),
        (format!("*.lab,!bad.lab {ONE}"), "bad.lab", 22, ONE, "unknown"),
        (format!("!bad.lab {ONE}"), "pg1.lab", 22, ONE, "unknown"),
        (format!("pg? {ONE}"), "pg1", 22, ONE, "known"),
        (format!("pg? {ONE}"), "pg10", 22, ONE, "unknown"),
        (format!("@revoked * {ONE}\npg1 {ONE}"), "pg1", 22, ONE, "revoked"),
        (format!("@revoked pg1 {ONE}"), "pg1", 2222, ONE, "unknown"),
        (format!("@cert-authority * {ONE}"), "pg1", 22, ONE, "unknown"),
        (format!("@something pg1 {ONE}"), "pg1", 22, ONE, "unknown"),
        (format!("# pg1 {ONE}"), "pg1", 22, ONE, "unknown"),
        (format!("pg1\t{}", ONE.replace(' ', "\t ")), "pg1", 22, ONE, "known"),
        ("pg1 ssh-ed25519 not/a/key".to_owned(), "pg1", 22, ONE, "unknown"),
    ];
    for (text, host, port, offered, expected) in cases {
        assert_eq!(judge(&text, host, port, offered), expected, "{host}:{port} by\n{text}");
    }
}

#[test]
fn says_where_the_differing_key_is_recorded() {
    let verdict = known(&format!("# mine\n\npg1 {ONE}")).judge("pg1", 22, &key(TWO));
    let Verdict::Changed(entries) = verdict else { panic!("{verdict:?}") };
    insta::assert_snapshot!(entries[0], @"/k:3: ssh-ed25519 SHA256:V8D06orKsUAZuGEYe2+eTkqITWll/igYRtRzVSl0Ls4");
}

/// The line is what `ssh-keygen -H` made of `pg1.lab`.
#[test]
fn reads_hashed_names() {
    let line = format!("|1|S0ilFU4H1vP7fFOSL7lxHgBW6B8=|vGFTPxx4oXbb1qE8dZ/vTLQA3bg= {ONE}");
    assert_eq!(judge(&line, "pg1.lab", 22, ONE), "known");
    assert_eq!(judge(&line, "pg2.lab", 22, ONE), "unknown");
}

#[test]
fn remembers_a_new_host_once_and_keeps_the_rest() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ssh/known_hosts");
    for hashed in [false, true] {
        let host = if hashed { "pg2" } else { "pg1" };
        for _ in 0..2 {
            assert_eq!(remember(&file, host, 22, &key(ONE), hashed).expect("writable"), Verdict::Known);
        }
    }
    let text = fs::read_to_string(&file).expect("readable");
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.starts_with(&format!("pg1 {ONE}\n|1|")), "{text}");
    assert_eq!(judge(&text, "pg2", 22, ONE), "known");
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path().join("ssh")).expect("a folder").count(), 1);
}

#[test]
fn what_another_process_recorded_meanwhile_wins() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("known_hosts");
    fs::write(&file, format!("pg1 {ONE}")).expect("writable");
    assert!(matches!(remember(&file, "pg1", 22, &key(TWO), false), Ok(Verdict::Changed(_))));
    assert_eq!(fs::read_to_string(&file).expect("readable"), format!("pg1 {ONE}"));
    remember(&file, "pg2", 22, &key(TWO), false).expect("writable");
    assert_eq!(fs::read_to_string(&file).expect("readable"), format!("pg1 {ONE}\npg2 {TWO}\n"));
}

proptest! {
    #[test]
    fn a_text_matches_itself_and_what_stars_stand_for(text in "[a-z0-9.]{0,12}", from in 0usize..12, to in 0usize..12) {
        prop_assert!(glob_matches(&text, &text));
        let (from, to) = (from.min(to).min(text.len()), from.max(to).min(text.len()));
        let glob = format!("{}*{}", &text[..from], &text[to..]);
        prop_assert!(glob_matches(&glob, &text), "{} against {}", glob, text);
        let longer = format!("{}x", text);
        prop_assert!(!glob_matches(&text, &longer));
    }
}
