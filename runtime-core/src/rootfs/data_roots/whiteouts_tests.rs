//! Marks hidden and shown, crashes between, and what images and containers forge.

use std::ffi::CString;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::PathBuf;

use rustix::fs::{CWD, getxattr, setxattr};

use super::*;

const NAME: &str = "var-lib-docker";

/// `data` is a data root, `beside` what only we see, `outside` must stay as it is.
struct Bed {
    dir: tempfile::TempDir,
    data: OwnedFd,
    beside: OwnedFd,
}

fn bed() -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let made = ["data", "beside", "outside"].map(|name| {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        openat(CWD, dir.path().join(name), DIRECTORY, Mode::empty()).unwrap()
    });
    let [data, beside, _] = made;
    Bed { dir, data, beside }
}

impl Bed {
    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn whiteout(&self, path: &str) {
        mknodat(
            CWD,
            self.path(path),
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        )
        .unwrap();
    }

    fn is_whiteout(&self, path: &str) -> bool {
        std::fs::symlink_metadata(self.path(path))
            .is_ok_and(|found| found.file_type().is_char_device() && found.rdev() == 0)
    }

    fn is_opaque(&self, path: &str) -> bool {
        let mut value = [0; 8];
        getxattr(self.path(path), OPAQUE, &mut value) == Ok(1) && value.first() == Some(&b'y')
    }

    /// Layers with two whiteouts that are one file, a third, and an opaque directory.
    fn layers(&self) {
        std::fs::create_dir_all(self.path("data/overlay2/a/diff/etc")).unwrap();
        std::fs::create_dir_all(self.path("data/overlay2/b/diff")).unwrap();
        std::fs::write(self.path("data/overlay2/a/diff/etc/kept"), "kept").unwrap();
        self.whiteout("data/overlay2/a/diff/etc/passwd");
        std::fs::hard_link(
            self.path("data/overlay2/a/diff/etc/passwd"),
            self.path("data/overlay2/a/diff/gone"),
        )
        .unwrap();
        self.whiteout("data/overlay2/b/diff/other");
        let opaque = self.path("data/overlay2/b/diff");
        setxattr(opaque, OPAQUE, b"y", XattrFlags::empty()).unwrap();
    }

    fn hide(&self) {
        hide(&self.beside, NAME, &self.data, &AtomicBool::new(false)).unwrap();
    }

    fn show(&self) {
        show(&self.beside, NAME, &self.data).unwrap();
    }

    fn left(&self, dir: &str) -> usize {
        std::fs::read_dir(self.path(dir)).unwrap().count()
    }

    /// All whiteouts of [`Bed::layers`].
    fn whiteouts(&self) -> [bool; 3] {
        ["a/diff/etc/passwd", "a/diff/gone", "b/diff/other"]
            .map(|path| self.is_whiteout(&format!("data/overlay2/{path}")))
    }

    /// The file of an image with these directories in it, which are opaque, and a whiteout in each.
    fn image(&self, directories: &[(&str, &str)]) {
        let mut writer = Writer::new(Vec::new()).unwrap();
        for (path, whiteout) in directories {
            writer.write(Mark::Directory(Path::new(path))).unwrap();
            writer.write(Mark::Opaque(b'y')).unwrap();
            writer.write(Mark::Whiteout(OsStr::new(whiteout))).unwrap();
        }
        let file = self.path("data").join(marks::FILE);
        std::fs::write(file, writer.into_inner()).unwrap();
    }
}

#[test]
fn hidden_marks_come_back_as_they_were() {
    let bed = bed();
    bed.layers();
    let facts = || {
        let stat = |path: &str| std::fs::symlink_metadata(bed.path(path)).unwrap();
        let dir = stat("data/overlay2/a/diff/etc");
        let file = stat("data/overlay2/a/diff/etc/passwd");
        (dir.mtime_nsec(), dir.mtime(), file.ino(), file.nlink())
    };
    let before = facts();
    bed.hide();
    assert_eq!(bed.whiteouts(), [false; 3]);
    assert_eq!(bed.left("data/overlay2/a/diff/etc"), 1, "but for the file");
    assert!(bed.path("data").join(marks::FILE).is_file());
    bed.show();
    assert_eq!(bed.whiteouts(), [true; 3]);
    assert_eq!(facts(), before);
    assert!(!bed.path("data").join(marks::FILE).exists());
    assert_eq!(bed.left("beside"), 0);
    bed.show();
    bed.hide();
    assert_eq!(bed.whiteouts(), [false; 3], "again");
}

#[test]
fn nothing_is_written_where_there_are_no_marks() {
    let bed = bed();
    std::fs::create_dir(bed.path("data/overlay2")).unwrap();
    bed.hide();
    assert_eq!((bed.left("data"), bed.left("beside")), (1, 0));
}

#[test]
fn whatever_a_crash_leaves_is_put_right() {
    // While the file was written, before its link was made, and after some whiteouts were moved.
    let bed = bed();
    bed.layers();
    let marks = bed.path("beside").join(Beside::of(NAME).marks);
    std::fs::write(&marks, "sysbox-ov").unwrap();
    bed.show();
    assert_eq!((bed.whiteouts(), bed.left("beside")), ([true; 3], 0));
    for moved in 0..=3 {
        bed.hide();
        let kept = bed.path("beside").join(Beside::of(NAME).whiteouts);
        let text = std::fs::read(&marks).unwrap();
        let mut reader = Reader::new(&*text).unwrap();
        let mut at = PathBuf::new();
        let mut number = 0;
        while let Some(mark) = reader.next().unwrap() {
            match mark {
                Mark::Directory(path) => at = bed.path("data").join(path),
                Mark::Whiteout(name) => {
                    if number >= moved {
                        std::fs::rename(kept.join(number.to_string()), at.join(name)).unwrap();
                    }
                    number += 1;
                }
                Mark::Opaque(_) => {}
            }
        }
        if moved == 0 {
            std::fs::remove_dir(&kept).unwrap();
            std::fs::remove_file(bed.path("data").join(marks::FILE)).unwrap();
        }
        bed.show();
        assert_eq!((bed.whiteouts(), bed.left("beside")), ([true; 3], 0));
    }
}

#[test]
fn an_image_gets_its_marks() {
    let bed = bed();
    bed.layers();
    bed.hide();
    // What the outer engine's archive has of it.
    let opaque = CString::new(bed.path("data/overlay2/b/diff").to_str().unwrap()).unwrap();
    rustix::fs::removexattr(&*opaque, OPAQUE).unwrap();
    assert_eq!(make(&bed.data).unwrap(), None);
    assert_eq!(bed.whiteouts(), [true; 3]);
    assert!(bed.is_opaque("data/overlay2/b/diff"));
    assert!(!bed.is_opaque("data/overlay2/a/diff"));
    assert!(!bed.path("data").join(marks::FILE).exists());
    assert_eq!(make(&bed.data).unwrap(), None);
}

#[test]
fn an_images_marks_lead_nowhere() {
    let bed = bed();
    symlink("../outside", bed.path("data/link")).unwrap();
    symlink(bed.path("outside"), bed.path("data/absolute")).unwrap();
    std::fs::create_dir(bed.path("data/there")).unwrap();
    std::fs::write(bed.path("data/there/file"), "kept").unwrap();
    symlink("../../outside/new", bed.path("data/there/new")).unwrap();
    std::fs::write(bed.path("data/file"), "").unwrap();
    bed.image(&[
        ("link", "a"),
        ("absolute", "b"),
        ("file", "c"),
        ("nowhere", "d"),
        ("there", "file"),
        ("there", "new"),
    ]);
    assert!(make(&bed.data).unwrap().is_some());
    assert_eq!(bed.left("outside"), 0);
    assert!(!bed.is_opaque("outside"));
    assert_eq!(
        std::fs::read_to_string(bed.path("data/there/file")).unwrap(),
        "kept"
    );
    assert!(!bed.is_whiteout("data/there/new"));
    assert!(bed.is_opaque("data/there"));

    let file = bed.path("data").join(marks::FILE);
    std::fs::write(&file, "d../outside\0wa\0").unwrap();
    assert!(make(&bed.data).unwrap().is_some());
    assert!(!file.exists());
    // Not a regular file: not read, and no trouble.
    symlink("/dev/zero", &file).unwrap();
    assert_eq!(make(&bed.data).unwrap(), None);
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    assert_eq!(make(&bed.data).unwrap(), None);
    assert_eq!(bed.left("outside"), 0);
}

#[test]
fn a_container_that_takes_the_name_loses_nothing_else() {
    let bed = bed();
    bed.layers();
    let file = bed.path("data").join(marks::FILE);
    // A file of its own is replaced, and never read.
    bed.image(&[("overlay2", "forged")]);
    bed.hide();
    bed.show();
    assert_eq!(bed.whiteouts(), [true; 3]);
    assert!(!bed.is_whiteout("data/overlay2/forged"));
    // With a directory there nothing is hidden, and nothing lost.
    std::fs::create_dir(&file).unwrap();
    assert!(hide(&bed.beside, NAME, &bed.data, &AtomicBool::new(false)).is_err());
    bed.show();
    assert_eq!((bed.whiteouts(), bed.left("beside")), ([true; 3], 0));
}

#[test]
fn a_kill_ends_the_search_and_loses_nothing() {
    let bed = bed();
    bed.layers();
    let hidden = hide(&bed.beside, NAME, &bed.data, &AtomicBool::new(true));
    assert!(hidden.is_err());
    bed.show();
    assert_eq!((bed.whiteouts(), bed.left("beside")), ([true; 3], 0));
}

#[test]
fn what_is_deeper_than_any_path_is_no_trouble() {
    let bed = bed();
    bed.layers();
    let name = "n".repeat(250);
    let mut at = openat(&bed.data, ".", DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..20 {
        rustix::fs::mkdirat(&at, &*name, Mode::RWXU).unwrap();
        mknodat(&at, "gone", FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        at = openat(&at, &*name, DIRECTORY, Mode::empty()).unwrap();
    }
    bed.hide();
    assert_eq!(bed.whiteouts(), [false; 3]);
    assert!(!bed.is_whiteout("data/gone"));
    bed.show();
    assert_eq!(bed.whiteouts(), [true; 3]);
    assert!(bed.is_whiteout("data/gone"));
}
