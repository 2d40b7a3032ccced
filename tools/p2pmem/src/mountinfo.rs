// SPDX-License-Identifier: GPL-2.0

//! Mounts, as `/proc/PID/mountinfo` lists them.
//!
//! The crate procfs leaves escapes in paths, and keeps one of several options of a name.

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// Major and minor number of the device, like `259:1`.
    pub number: String,
    /// Mount point.
    pub point: String,
    /// The file system.
    pub kind: String,
    /// Source of the mount, as written by the mounter.
    pub source: String,
    /// Options of the file system: names, and values of those that have one.
    pub options: Vec<(String, Option<String>)>,
}

/// Reads the text of a `mountinfo` file. Lines of another form are left out.
pub fn parse(text: &str) -> Vec<MountInfo> {
    text.lines().filter_map(line).collect()
}

/// Reads a line: id, parent, device, root, mount point, options, optional fields, `-`, file system,
/// source, options of the file system.
fn line(line: &str) -> Option<MountInfo> {
    let (first, second) = line.split_once(" - ")?;
    let mut first = first.split(' ');
    let mut second = second.split(' ');
    let (kind, source) = (second.next()?, second.next()?);
    let options = second.next().unwrap_or_default().split(',');
    Some(MountInfo {
        number: first.nth(2)?.to_owned(),
        point: unescape(first.nth(1)?),
        kind: kind.to_owned(),
        source: unescape(source),
        options: options
            .map(|option| match option.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(unescape(value))),
                None => (option.to_owned(), None),
            })
            .collect(),
    })
}

/// Replaces the octal escapes that procfs writes for white space and backslashes.
fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .into_iter()
    .fold(text.to_owned(), |text, (escape, character)| {
        text.replace(escape, character)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let text = "21 1 254:0 / /mnt/a\\040b rw shared:1 master:2 - ext4 /dev/mapper/a\\134b rw\n\
                    24 1 0:40 / /mnt rw - overlay none rw,lowerdir+=/1,lowerdir+=/2\n\
                    broken\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(
            (&*mounts[0].number, &*mounts[0].point),
            ("254:0", "/mnt/a b")
        );
        assert_eq!(
            (&*mounts[0].kind, &*mounts[0].source),
            ("ext4", "/dev/mapper/a\\b")
        );
        assert_eq!(mounts[0].options, [("rw".to_owned(), None)]);
        let lower = |path: &str| ("lowerdir+".to_owned(), Some(path.to_owned()));
        assert_eq!(mounts[1].options[1..], [lower("/1"), lower("/2")]);
    }
}
