// SPDX-License-Identifier: GPL-2.0

//! Compares what is said of recorded machines with what was said before.
//!
//! For each tests/fabrics/NAME.json there are NAME.topo.txt, what `p2pmem topo --replay` prints,
//! and NAME.doctor.txt, what `p2pmem doctor --replay` prints for all mount points.

use std::{fs, path::Path};

use p2pmem::fabric::{Fabric, Target};

use crate::{doctor, topo};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fabrics");
const WIDTH: u16 = 100;

/// Runs a function on each recorded machine.
fn each(run: impl Fn(&str, &Fabric)) {
    let mut names: Vec<_> = fs::read_dir(FOLDER)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| Some(name.strip_suffix(".json")?.to_owned()))
        .collect();
    names.sort();
    assert!(names.len() >= 5, "{names:?}");
    for name in names {
        let path = Path::new(FOLDER).join(format!("{name}.json"));
        run(
            &name,
            &Fabric::from_json(&fs::read_to_string(path).unwrap()).unwrap(),
        );
    }
}

/// Compares a text with what is in a file below the line of its licence.
fn compare(file: &str, text: &str) {
    let path = Path::new(FOLDER).join(file);
    let expected = fs::read_to_string(&path).unwrap_or_default();
    let (_, expected) = expected.split_once('\n').unwrap_or_default();
    assert!(
        text == expected,
        "{} differs; what is said now is:\n{text}",
        path.display()
    );
}

#[test]
fn topo_says_what_it_said() {
    let options = topo::Options {
        provider: None,
        all: false,
        width: WIDTH,
    };
    each(|name, fabric| compare(&format!("{name}.topo.txt"), &topo::render(fabric, &options)));
}

#[test]
fn doctor_says_what_it_said() {
    each(|name, fabric| {
        let targets: Vec<_> = fabric
            .mounts
            .iter()
            .map(|mount| (mount.point.clone(), Target::File(mount.point.clone())))
            .collect();
        let checks = doctor::examine(fabric, &targets);
        compare(
            &format!("{name}.doctor.txt"),
            &doctor::render(&checks, WIDTH),
        );
    });
}

#[test]
fn what_was_recorded_is_read_as_it_was_written() {
    each(|_, fabric| {
        let again = Fabric::from_json(&fabric.to_json()).unwrap();
        assert_eq!(&again, fabric);
    });
}

#[test]
fn nonsense_is_refused() {
    let good = fs::read_to_string(Path::new(FOLDER).join("desktop.json")).unwrap();
    for (text, complaint) in [
        ("", "not a recorded fabric"),
        ("{}", "not a recorded fabric"),
        ("{\"version\": 1}", "not a recorded fabric"),
        (
            &*good.replace("\"version\": 1", "\"version\": 2"),
            "version 2",
        ),
        (
            &*good.replace(
                "\"parent\": \"0000:00:06.0\"",
                "\"parent\": \"0000:77:00.0\"",
            ),
            "is not there",
        ),
        (
            &*good.replace(
                "\"parent\": \"0000:00:06.0\"",
                "\"parent\": \"0000:01:00.0\"",
            ),
            "above itself",
        ),
    ] {
        let error = Fabric::from_json(text).unwrap_err().to_string();
        assert!(error.contains(complaint), "{error}");
    }
}
