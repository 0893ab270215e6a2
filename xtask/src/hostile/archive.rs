//! A cpio archive in the kernel's "newc" form, for a root in memory.

/// An archive in the making.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    /// Each entry has a number of its own, else the kernel takes them for hard links.
    entries: u32,
    folders: Vec<String>,
}

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

impl Archive {
    /// Adds a folder, once.
    pub(super) fn add_folder(&mut self, name: &str) {
        if !self.folders.iter().any(|known| known == name) {
            self.folders.push(name.to_owned());
            self.add(name, FOLDER | 0o755, &[]);
        }
    }

    /// Adds a file and the folders above it.
    pub(super) fn add_file(&mut self, name: &str, content: &[u8], mode: u32) {
        for (at, _) in name.match_indices('/') {
            self.add_folder(&name[..at]);
        }
        self.add(name, FILE | mode, content);
    }

    /// Ends it.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        // Inode, mode, owner, group, links, time, length, four device numbers, length of the name, no checksum.
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            content.len() as u32,
            0,
            0,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_padded_entries_folders_first_and_a_trailer() {
        let mut archive = Archive::default();
        archive.add_file("a/b", b"hello", 0o755);
        archive.add_file("a/c", b"", 0o600);
        let bytes = archive.finish();
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(text.matches("070701").count(), 4);
        let folder = text.find("a\0").unwrap();
        assert!(folder < text.find("a/b\0").unwrap());
        assert!(text.contains("000081ed00000000000000000000000100000000000000050000"));
        assert!(text.contains("hello\0\0\0"));
        assert!(text.ends_with("TRAILER!!!\0\0\0\0"), "{text:?}");
    }
}
