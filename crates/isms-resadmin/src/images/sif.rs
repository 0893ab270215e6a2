//! The first look at an image: is it a SIF file at all.
//!
//! What is in it, and for which machine, is the spawner's to check, which uses it.

/// Length of a SIF file's global header.
pub(super) const HEADER_LEN: usize = 128;

/// Where the magic lies, behind the line by which a kernel would start the file; the version follows.
const MAGIC_AT: usize = 32;
const MAGIC: &[u8; 10] = b"SIF_MAGIC\0";
const VERSION_AT: usize = MAGIC_AT + MAGIC.len();
const VERSION: &[u8; 3] = b"01\0";

/// Why a file is no image.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SifError {
    #[error("the file is not a SIF image; build one with `apptainer build`")]
    Magic,
    #[error("the image is of another version of SIF than 1; build it again with a current Apptainer")]
    Version,
}

/// Looks at a file's first bytes.
pub(super) fn check(header: &[u8; HEADER_LEN]) -> Result<(), SifError> {
    if !header[MAGIC_AT..].starts_with(MAGIC) {
        Err(SifError::Magic)
    } else if !header[VERSION_AT..].starts_with(VERSION) {
        Err(SifError::Version)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_and_version_are_looked_at() {
        let mut header = [0; HEADER_LEN];
        header[32..42].copy_from_slice(MAGIC);
        header[42..45].copy_from_slice(VERSION);
        assert_eq!(check(&header), Ok(()));
        let changed = |at: usize| {
            let mut header = header;
            header[at] ^= 1;
            check(&header)
        };
        assert_eq!(changed(32), Err(SifError::Magic));
        assert_eq!(changed(41), Err(SifError::Magic));
        assert_eq!(changed(43), Err(SifError::Version));
        assert_eq!(changed(0), Ok(()), "the line before is anybody's");
    }
}
