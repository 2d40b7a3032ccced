// SPDX-License-Identifier: GPL-2.0

//! How stacked block devices spread their data. All offsets and lengths are in bytes.

/// The unit in which the kernel counts, in bytes.
pub const SECTOR: u64 = 512;

/// A place on a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The name of the block device.
    pub device: String,
    /// Offset there, in bytes.
    pub offset: u64,
}

/// A range of a stacked device that has one shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: u64,
    pub length: u64,
    pub shape: Shape,
}

/// How members share data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Each member has all of it.
    Mirror(Vec<Member>),
    /// Chunk by chunk it goes to the next member, with all of its copies on members that follow
    /// each other.
    Stripes {
        chunk: u64,
        copies: usize,
        /// In the order of the array; nothing for those that are missing.
        members: Vec<Option<Member>>,
    },
}

impl Shape {
    /// Returns how many copies there are.
    pub fn copies(&self) -> usize {
        match self {
            Self::Mirror(members) => members.len(),
            Self::Stripes { copies, .. } => *copies,
        }
    }
}

impl Span {
    /// Returns one that is all of a device.
    pub fn whole(shape: Shape) -> Self {
        Self {
            start: 0,
            length: u64::MAX,
            shape,
        }
    }

    /// Returns one that is all of a device, and on each of these members.
    pub fn mirror(members: Vec<Member>) -> Self {
        Self::whole(Shape::Mirror(members))
    }
}

/// Returns the members that have the byte at an offset, and for how many bytes this holds.
pub fn locate(spans: &[Span], offset: u64) -> Option<(Vec<Member>, u64)> {
    let span = spans
        .iter()
        .find(|span| offset >= span.start && offset - span.start < span.length)?;
    let within = offset - span.start;
    let at = |member: &Member, offset| {
        Some(Member {
            device: member.device.clone(),
            offset: member.offset.checked_add(offset)?,
        })
    };
    match &span.shape {
        Shape::Mirror(members) => {
            let members = members.iter().map(|member| at(member, within));
            Some((members.collect::<Option<_>>()?, span.length - within))
        }
        Shape::Stripes {
            chunk,
            copies,
            members,
        } => {
            if *chunk == 0 || members.is_empty() {
                return None;
            }
            let (number, rest) = (within / chunk, within % chunk);
            let count = members.len() as u64;
            let mut found = Vec::new();
            for copy in 0..*copies as u64 {
                let place = number.checked_mul(*copies as u64)?.checked_add(copy)?;
                let row = (place / count).checked_mul(*chunk)?;
                if let Some(member) = &members[(place % count) as usize] {
                    found.push(at(member, row + rest)?);
                }
            }
            Some((found, chunk - rest))
        }
    }
}

/// A line of a table of the device mapper, in sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub start: u64,
    pub length: u64,
    /// The kind of target.
    pub kind: String,
    pub parameters: String,
}

/// Returns what a line of a table means. `name_of` returns the name of a block device by its
/// number.
pub fn mapped(line: &Line, name_of: &dyn Fn(&str) -> Option<String>) -> Option<Span> {
    let words: Vec<&str> = line.parameters.split_whitespace().collect();
    let number = |index: usize| words.get(index)?.parse::<u64>().ok();
    let member = |device: usize, sectors: u64| {
        Some(Member {
            device: name_of(words.get(device)?)?,
            offset: sectors.checked_mul(SECTOR)?,
        })
    };
    let shape = match line.kind.as_str() {
        "linear" => Shape::Mirror(vec![member(0, number(1)?)?]),
        "striped" => {
            let count = usize::try_from(number(0)?).ok()?;
            let members = (0..count).map(|index| {
                let index = 2 + 2 * index;
                member(index, number(index + 1)?).map(Some)
            });
            Shape::Stripes {
                chunk: number(1)?.checked_mul(SECTOR)?,
                copies: 1,
                members: members.collect::<Option<_>>()?,
            }
        }
        // The log and its arguments come first.
        "mirror" => {
            let first = 2 + usize::try_from(number(1)?).ok()?;
            let count = usize::try_from(number(first)?).ok()?;
            let members = (0..count).map(|index| {
                let index = first + 1 + 2 * index;
                member(index, number(index + 1)?)
            });
            Shape::Mirror(members.collect::<Option<_>>()?)
        }
        "raid" => raid(&words, &number, &member)?,
        _ => return None,
    };
    Some(Span {
        start: line.start.checked_mul(SECTOR)?,
        length: line.length.checked_mul(SECTOR)?,
        shape,
    })
}

/// Reads the parameters of a target that is md: the level, its arguments, and pairs of devices for
/// metadata and data, each `-` where it is missing.
fn raid(
    words: &[&str],
    number: &dyn Fn(usize) -> Option<u64>,
    member: &dyn Fn(usize, u64) -> Option<Member>,
) -> Option<Shape> {
    let arguments = usize::try_from(number(1)?).ok()?;
    let first = 2 + arguments;
    let option = |name: &str| {
        let index = words[..first.min(words.len())]
            .iter()
            .position(|word| *word == name)?;
        Some(index + 1)
    };
    // A reshape moves data about.
    let offset = option("data_offset").map_or(Some(0), number)?;
    if option("delta_disks").is_some() {
        return None;
    }
    let count = usize::try_from(number(first)?).ok()?;
    let members: Vec<_> = (0..count)
        .map(|index| {
            let data = first + 2 + 2 * index;
            match *words.get(data)? {
                "-" => Some(None),
                _ => member(data, offset).map(Some),
            }
        })
        .collect::<Option<_>>()?;
    match *words.first()? {
        "raid1" => Some(Shape::Mirror(members.into_iter().flatten().collect())),
        "raid10" if option("raid10_format").is_none_or(|index| words[index] == "near") => {
            Some(Shape::Stripes {
                chunk: number(2)?.checked_mul(SECTOR)?,
                copies: option("raid10_copies").map_or(Some(2), number)? as usize,
                members,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(device: &str, offset: u64) -> Member {
        Member {
            device: device.to_owned(),
            offset,
        }
    }

    fn name_of(number: &str) -> Option<String> {
        let minor = number.strip_prefix("259:")?;
        Some(format!("nvme{minor}n1"))
    }

    fn line(kind: &str, parameters: &str) -> Line {
        Line {
            start: 8,
            length: 1024,
            kind: kind.to_owned(),
            parameters: parameters.to_owned(),
        }
    }

    #[test]
    fn a_mirror_has_all_on_each() {
        let spans = [Span::mirror(vec![member("a", 4096), member("b", 8192)])];
        let (members, run) = locate(&spans, 512).unwrap();
        assert_eq!(members, [member("a", 4608), member("b", 8704)]);
        assert_eq!(run, u64::MAX - 512);
    }

    #[test]
    fn stripes_go_round() {
        let stripes = |copies, names: &[&str]| {
            vec![Span::whole(Shape::Stripes {
                chunk: 4096,
                copies,
                members: names
                    .iter()
                    .map(|name| (!name.is_empty()).then(|| member(name, 1 << 20)))
                    .collect(),
            })]
        };
        let at = |spans: &[Span], offset| locate(spans, offset).unwrap();
        const BASE: u64 = 1 << 20;

        let plain = stripes(1, &["a", "b"]);
        assert_eq!(at(&plain, 100), (vec![member("a", BASE + 100)], 3996));
        assert_eq!(at(&plain, 4096), (vec![member("b", BASE)], 4096));
        assert_eq!(at(&plain, 8192), (vec![member("a", BASE + 4096)], 4096));
        // Two copies on three members: the second chunk begins on the third one.
        let three = stripes(2, &["a", "b", "c"]);
        assert_eq!(at(&three, 0).0, [member("a", BASE), member("b", BASE)]);
        assert_eq!(
            at(&three, 4096 + 8).0,
            [member("c", BASE + 8), member("a", BASE + 4096 + 8)]
        );
        // One of four is missing.
        let four = stripes(2, &["a", "", "c", "d"]);
        assert_eq!(at(&four, 0).0, [member("a", BASE)]);
        assert_eq!(at(&four, 4096).0, [member("c", BASE), member("d", BASE)]);
    }

    #[test]
    fn lines_of_tables_are_understood() {
        let shape = |kind, parameters| {
            let span = mapped(&line(kind, parameters), &name_of)?;
            assert_eq!((span.start, span.length), (4096, 1024 * 512));
            Some(span.shape)
        };
        assert_eq!(
            shape("linear", "259:0 2048"),
            Some(Shape::Mirror(vec![member("nvme0n1", 1 << 20)]))
        );
        assert_eq!(
            shape("striped", "2 128 259:0 0 259:1 8"),
            Some(Shape::Stripes {
                chunk: 64 << 10,
                copies: 1,
                members: vec![Some(member("nvme0n1", 0)), Some(member("nvme1n1", 4096))],
            })
        );
        let both = Shape::Mirror(vec![member("nvme0n1", 0), member("nvme2n1", 0)]);
        for (kind, parameters) in [
            ("mirror", "core 1 1024 2 259:0 0 259:2 0"),
            (
                "mirror",
                "disk 2 259:5 1024 2 259:0 0 259:2 0 1 handle_errors",
            ),
            ("raid", "raid1 3 0 region_size 1024 2 259:5 259:0 - 259:2"),
            (
                "raid",
                "raid1 4 0 nosync region_size 1024 2 259:5 259:0 259:6 259:2",
            ),
        ] {
            assert_eq!(
                shape(kind, parameters).as_ref(),
                Some(&both),
                "{parameters}"
            );
        }
        assert_eq!(
            shape(
                "raid",
                "raid10 5 128 raid10_copies 2 region_size 1024 2 - 259:0 - -"
            ),
            Some(Shape::Stripes {
                chunk: 64 << 10,
                copies: 2,
                members: vec![Some(member("nvme0n1", 0)), None],
            })
        );
        for (kind, parameters) in [
            (
                "raid",
                "raid10 5 128 raid10_format far region_size 1024 1 - 259:0",
            ),
            ("raid", "raid1 3 0 delta_disks 1 1 - 259:0"),
            ("raid", "raid5_ls 3 128 region_size 1024 1 - 259:0"),
            ("linear", "1:1 0"),
            ("linear", ""),
            ("mirror", "core 99 1"),
            (
                "crypt",
                "aes-xts-plain64 :64:logon:cryptsetup 0 259:0 32768",
            ),
        ] {
            assert_eq!(shape(kind, parameters), None, "{kind} {parameters}");
        }
    }

    #[test]
    fn spans_end() {
        let first = mapped(&line("linear", "259:0 0"), &name_of).unwrap();
        let (members, run) = locate(std::slice::from_ref(&first), 4096 + 512).unwrap();
        assert_eq!(members, [member("nvme0n1", 512)]);
        assert_eq!(run, 1023 * 512);
        assert_eq!(locate(&[first], 0), None);
    }
}
