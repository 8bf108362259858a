//! How long a disk takes until what was written is safe: what each commit of PostgreSQL and each entry of etcd
//! waits for.

use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, Seek as _, SeekFrom, Write as _},
    path::Path,
    time::{Duration, Instant},
};

/// About what etcd writes at once; PostgreSQL's least is a page of 8 KiB, for which a disk takes as long.
const WRITE: [u8; 2300] = [0; 2300];
const WRITES: usize = 100;
/// A slow disk is known as one before that.
const LIMIT: Duration = Duration::from_millis(1500);

/// Times of fdatasync after a small write, in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Syncs {
    /// The folder that was asked about.
    pub path: String,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// Writes to a file without a name in `folder`, which is on the file system that `path` is, or will be, on. None
/// where nothing can be written.
pub(crate) fn measure(path: String, folder: &Path) -> Option<Syncs> {
    let times = times(folder).ok()?;
    Some(Syncs { path, p50_ms: percentile(&times, 50)?, p99_ms: percentile(&times, 99)? })
}

/// Sorted.
fn times(folder: &Path) -> io::Result<Vec<f64>> {
    let mut file = tempfile::tempfile_in(folder)?;
    // Both services write over what is there: the size of a file is not what they wait for.
    file.write_all(&vec![0; WRITE.len() * WRITES])?;
    file.sync_all()?;
    file.seek(SeekFrom::Start(0))?;
    let begun = Instant::now();
    let mut times = Vec::with_capacity(WRITES);
    while times.len() < WRITES && (times.is_empty() || begun.elapsed() < LIMIT) {
        times.push(write(&mut file)?);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn write(file: &mut File) -> io::Result<f64> {
    let begun = Instant::now();
    file.write_all(&WRITE)?;
    file.sync_data()?;
    Ok(begun.elapsed().as_secs_f64() * 1000.0)
}

/// The value that so many of a hundred do not exceed.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    sorted.get((sorted.len() * percent).div_ceil(100).checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_a_measurement() {
        let root = tempfile::tempdir().expect("a directory");
        let before = root.path().metadata().and_then(|data| data.modified()).expect("a time");
        let syncs = measure("/not/there/yet".to_owned(), root.path()).expect("measured");
        assert_eq!(syncs.path, "/not/there/yet");
        assert!(syncs.p50_ms > 0.0 && syncs.p50_ms <= syncs.p99_ms, "{syncs:?}");
        assert_eq!(root.path().read_dir().expect("readable").count(), 0);
        assert_eq!(root.path().metadata().and_then(|data| data.modified()).expect("a time"), before);
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((percentile(&hundred, 50), percentile(&hundred, 99)), (Some(50.0), Some(99.0)));
        assert_eq!((percentile(&[7.0], 50), percentile(&[7.0], 99)), (Some(7.0), Some(7.0)));
        assert_eq!(percentile(&[], 50), None);
    }
}
