//! Key and certificate on disk.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use crate::{CERTIFICATE_VALIDITY, Error, Fingerprint, Identity, not_after};

const NOW: i64 = 1_790_000_000;

fn load(directory: &Path) -> Result<Identity, Error> {
    Identity::load_or_create(directory, "alpha", NOW)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_new_identity_is_private_lasts_three_years_and_is_kept() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("state/identity");
    let identity = load(&directory).unwrap();
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join("key.pem")), 0o600);
    assert_eq!(mode(&directory.join("certificate.pem")), 0o600);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 2, "temporary files were left");
    assert_eq!(identity.not_after(), NOW + 1096 * 86_400);
    assert_eq!(CERTIFICATE_VALIDITY.as_secs(), 1096 * 86_400);
    let name = b"alpha";
    assert!(identity.certificate_der().windows(name.len()).any(|window| window == name));

    let again = Identity::load_or_create(&directory, "other name", NOW + 9).unwrap();
    assert_eq!(again.certificate_der(), identity.certificate_der());
    assert_eq!(again.fingerprint(), Fingerprint::of(identity.certificate_der()));
    assert_eq!(not_after(again.certificate_der()), Some(again.not_after()));
}

#[test]
fn dates_beyond_2049_are_read_too() {
    let directory = tempfile::tempdir().unwrap();
    let late = 2_600_000_000; // 2052
    let identity = Identity::load_or_create(directory.path(), "alpha", late).unwrap();
    assert_eq!(identity.not_after(), late + 1096 * 86_400);
    let directory = tempfile::tempdir().unwrap();
    let error = Identity::load_or_create(directory.path(), "alpha", i64::MAX).unwrap_err();
    assert!(matches!(error, Error::Certificate(_)), "{error}");
}

#[test]
fn two_identities_differ_and_fingerprints_are_grouped() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (load(one.path()).unwrap(), load(two.path()).unwrap());
    assert_ne!(one.fingerprint(), two.fingerprint());
    let text = Fingerprint::of(b"").to_string();
    let groups: Vec<&str> = text.split('-').collect();
    assert_eq!(groups.len(), 16);
    assert!(groups.iter().all(|group| group.len() == 4));
    assert!(text.starts_with("e3b0-c442-98fc-1c14-"), "{text}");
}

#[test]
fn a_damaged_file_is_named_and_never_replaced() {
    for file in ["key.pem", "certificate.pem"] {
        let directory = tempfile::tempdir().unwrap();
        load(directory.path()).unwrap();
        let path = directory.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        for damaged in ["", "rubbish", &text[..text.len() / 2], &text.replacen("MI", "MM", 1)] {
            fs::write(&path, damaged).unwrap();
            let error = load(directory.path()).unwrap_err();
            assert!(matches!(&error, Error::Damaged { path: named, .. } if *named == path));
            assert!(error.to_string().contains(file), "{error}");
            assert!(error.next_step().unwrap().contains("backup"));
            assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
        }
    }
}

#[test]
fn half_an_identity_is_refused() {
    for (gone, beside) in [("key.pem", "certificate.pem"), ("certificate.pem", "key.pem")] {
        let directory = tempfile::tempdir().unwrap();
        load(directory.path()).unwrap();
        fs::remove_file(directory.path().join(gone)).unwrap();
        let error = load(directory.path()).unwrap_err();
        assert!(
            matches!(&error, Error::HalfMissing { path, beside: other }
                if path.ends_with(gone) && other.ends_with(beside)),
            "{error}"
        );
        assert!(!directory.path().join(gone).exists());
    }
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    load(one.path()).unwrap();
    load(two.path()).unwrap();
    fs::copy(one.path().join("key.pem"), two.path().join("key.pem")).unwrap();
    let error = load(two.path()).unwrap_err();
    assert!(error.to_string().contains("does not belong to the key"), "{error}");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    load(directory.path()).unwrap();
    let key = directory.path().join("key.pem");
    fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    let error = load(directory.path()).unwrap_err();
    assert!(error.to_string().contains("mode 0640"), "{error}");
    // The certificate is no secret.
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let certificate = directory.path().join("certificate.pem");
    fs::set_permissions(certificate, Permissions::from_mode(0o644)).unwrap();
    load(directory.path()).unwrap();
}

#[test]
fn a_creation_stopped_between_its_renames_is_finished() {
    let directory = tempfile::tempdir().unwrap();
    let identity = load(directory.path()).unwrap();
    let key = directory.path().join("key.pem");
    fs::rename(&key, directory.path().join("key.pem.new")).unwrap();
    assert_eq!(load(directory.path()).unwrap().fingerprint(), identity.fingerprint());
    assert!(key.exists());
}

#[test]
fn a_creation_stopped_before_its_renames_starts_again() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("key.pem.new"), "half a k").unwrap();
    fs::write(directory.path().join("certificate.pem.new"), "").unwrap();
    let identity = load(directory.path()).unwrap();
    assert_eq!(mode(&directory.path().join("key.pem")), 0o600);
    assert_eq!(load(directory.path()).unwrap().fingerprint(), identity.fingerprint());
}

#[test]
fn an_identity_is_replaced_as_a_whole_also_by_a_crash() {
    let parent = tempfile::tempdir().unwrap();
    let (directory, next) = (parent.path().join("state"), parent.path().join("state/next"));
    let old = load(&directory).unwrap();
    let new = load(&next).unwrap();
    assert_ne!(old.fingerprint(), new.fingerprint());
    let saved =
        |path: &Path| ["key.pem", "certificate.pem"].map(|name| fs::read(path.join(name)).unwrap());
    let (of_old, of_new) = (saved(&directory), saved(&next));
    // What is on the disk after each step: nothing yet, the staged key, the certificate, all.
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    };
    write("key.pem.new", &of_new[0]);
    assert_eq!(load(&directory).unwrap().fingerprint(), old.fingerprint(), "a staged key alone");
    write("certificate.pem", &of_new[1]);
    assert_eq!(load(&directory).unwrap().fingerprint(), new.fingerprint(), "both are in place");
    assert!(!directory.join("key.pem.new").exists());
    write("key.pem", &of_old[0]);
    write("certificate.pem", &of_old[1]);
    let replaced = Identity::replace(&directory, &next).unwrap();
    assert_eq!(replaced.fingerprint(), new.fingerprint());
    assert_eq!(load(&directory).unwrap().fingerprint(), new.fingerprint());
    assert!(!next.exists(), "the key is left in another place");
    assert!(Identity::replace(&directory, &next).is_err(), "there is nothing to put in place");
    assert_eq!(load(&directory).unwrap().fingerprint(), new.fingerprint());
}

#[test]
fn what_is_left_of_a_replacement_does_not_come_back() {
    let parent = tempfile::tempdir().unwrap();
    let next = parent.path().join("next");
    let old = load(&parent.path().join("state")).unwrap().fingerprint();
    let prepare = |in_use| Identity::prepare(&next, in_use, "alpha", NOW).unwrap().fingerprint();
    let first = prepare(old);
    assert_eq!(prepare(old), first, "one that was not put in place is used by the next try");
    let second = prepare(first);
    assert!(second != first && second != old, "it is in use already");
    for left in ["key.pem", "certificate.pem"] {
        let before = prepare(old);
        fs::remove_file(next.join(left)).unwrap();
        assert_ne!(prepare(old), before, "{left} was removed");
    }
}
