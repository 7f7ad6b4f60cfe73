//! An SVID and its bundle in, three files out that change together: the files are links into a
//! folder behind one link, and that link is replaced in one step, as Kubernetes does with mounted
//! secrets.

use std::fs;
use std::io;
use std::path::Path;
#[cfg(unix)]
use std::path::PathBuf;

use crate::bundle::TrustBundle;
#[cfg(unix)]
use crate::disk::{Disk, Mode, SystemDisk};
use crate::svid::X509Svid;

/// The certificate chain, leaf first.
pub const CERT_FILE: &str = "cert.pem";

/// The private key; its mode is 0600.
pub const KEY_FILE: &str = "key.pem";

/// The roots of the SVID's own trust domain.
pub const BUNDLE_FILE: &str = "bundle.pem";

/// The link to the folder with the current files.
const CURRENT: &str = "..data";

/// What folders with files are called, followed by the serial number of the leaf.
const VERSION: &str = "..svid-";

/// How often a set is read that is replaced meanwhile.
#[cfg(unix)]
const READS: usize = 16;

/// Writes an SVID and its bundle into `dir` as `cert.pem`, `key.pem` and `bundle.pem`.
///
/// 1. A new folder with all three files, synced.
/// 2. The link `..data` is replaced by one to it: from here on every reader sees the new set.
/// 3. The three names, which are links through `..data`, are made where they are missing.
/// 4. Older folders are removed.
///
/// A reader that opens one file before and another after step 2 sees a pair that does not match;
/// [`super::FileSource`] notices that, and reads again.
///
/// # Errors
///
/// The system's error; before step 2 the old set stays as it was. A plain file, or a link that leads
/// elsewhere, under one of the three names is never replaced: `AlreadyExists`.
#[cfg(unix)]
pub fn publish(dir: &Path, svid: &X509Svid, bundle: &TrustBundle) -> io::Result<()> {
    let (cert, key, bundle) = (
        svid.chain_pem(),
        svid.key().to_secret_pem(),
        bundle.to_pem(),
    );
    publish_set(
        dir,
        svid.serial(),
        &[
            (CERT_FILE, cert.as_bytes(), Mode::Public),
            (KEY_FILE, key.as_bytes(), Mode::Secret),
            (BUNDLE_FILE, bundle.as_bytes(), Mode::Public),
        ],
    )
}

/// The same for any set of files, behind a folder that is called after `serial`.
#[cfg(unix)]
pub(in crate::source) fn publish_set(
    dir: &Path,
    serial: &str,
    files: &[(&str, &[u8], Mode)],
) -> io::Result<()> {
    use std::os::unix::fs::symlink;

    fs::create_dir_all(dir)?;
    for (name, _, _) in files {
        let path = dir.join(name);
        let ours = Path::new(CURRENT).join(name);
        if path.symlink_metadata().is_ok() && fs::read_link(path).ok() != Some(ours) {
            let message = format!("{name} exists and is not a link of ours");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
    }

    let version = free_version(dir, serial)?;
    let folder = dir.join(&version);
    for (name, content, mode) in files {
        SystemDisk.create(&folder.join(name), content, *mode)?;
    }
    SystemDisk.sync_dir(&folder)?;

    replace_link(&version, &dir.join(CURRENT))?;
    for (name, _, _) in files {
        let link = dir.join(name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new(CURRENT).join(name), &link)?;
        }
    }
    SystemDisk.sync_dir(dir)?;

    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let old = name
            .to_str()
            .is_some_and(|name| name.starts_with(VERSION) && name != version);
        if old {
            fs::remove_dir_all(dir.join(name))?;
        }
    }
    Ok(())
}

/// The folder that holds the current set, as far as `dir` has one.
#[cfg(unix)]
pub(in crate::source) fn current_set(dir: &Path) -> io::Result<PathBuf> {
    let version = fs::read_link(dir.join(CURRENT))?;
    let ours = version
        .to_str()
        .is_some_and(|name| name.starts_with(VERSION) && !name.contains('/'));
    if !ours {
        let message = format!("{CURRENT} is not a link of ours");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(dir.join(version))
}

/// What `read` makes of the folder with the current set, all of it of one set: what it found is dropped, and
/// it reads again, where another set has taken the place of the one that it was given, whose files may be
/// gone meanwhile.
///
/// # Errors
///
/// That of [`current_set`], or `ResourceBusy` if the set is another one after each of a few turns.
#[cfg(unix)]
pub(in crate::source) fn read_set<T>(
    dir: &Path,
    mut read: impl FnMut(&Path) -> T,
) -> io::Result<T> {
    let mut folder = current_set(dir)?;
    for _ in 0..READS {
        let found = read(&folder);
        let now = current_set(dir)?;
        if now == folder {
            return Ok(found);
        }
        folder = now;
    }
    let message = "another set takes its place again and again";
    Err(io::Error::new(io::ErrorKind::ResourceBusy, message))
}

/// Not supported here: there is no way to replace three files in one step.
///
/// # Errors
///
/// Always `Unsupported`.
#[cfg(not(unix))]
pub fn publish(_: &Path, _: &X509Svid, _: &TrustBundle) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Makes a folder that is called after `serial`, and counted on from the current one, since the same SVID
/// may be published again with another bundle, and past those of a crash that left half a folder. So no
/// name comes back while readers compare it.
#[cfg(unix)]
fn free_version(dir: &Path, serial: &str) -> io::Result<String> {
    let current = current_set(dir).ok();
    let current = current.as_deref().and_then(Path::file_name);
    let counted = current.and_then(|name| name.to_str()?.strip_prefix(VERSION)?.rsplit_once('.'));
    let last = counted.filter(|(of, _)| *of == serial);
    let last = last.and_then(|(_, count)| count.parse::<u32>().ok());
    let mut count = last.map_or(0, |last| last.wrapping_add(1));
    loop {
        let version = format!("{VERSION}{serial}.{count}");
        match fs::create_dir(dir.join(&version)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                count = count.wrapping_add(1);
            }
            made => return made.map(|()| version),
        }
    }
}

/// Makes `link` point to `target`, in one step also if there is one.
#[cfg(unix)]
fn replace_link(target: &str, link: &Path) -> io::Result<()> {
    let mut new = link.as_os_str().to_owned();
    new.push("_new");
    let new = Path::new(&new);
    match fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(target, new)?;
    fs::rename(new, link)
}
