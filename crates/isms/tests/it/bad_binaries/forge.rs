//! Changes an ELF file where it hurts: headers, segments, what it tells the loader.

/// Kinds of segments.
pub(super) const LOAD: u32 = 1;
const DYNAMIC: u32 = 2;
pub(super) const NOTE: u32 = 4;
pub(super) const STACK: u32 = 0x6474_e551;

/// What the table for the loader calls its entries.
pub(super) mod dynamic {
    pub(in super::super) const HASH: u64 = 4;
    pub(in super::super) const STRINGS: u64 = 5;
    pub(in super::super) const RELOCATIONS: u64 = 7;
    pub(in super::super) const RELOCATIONS_LEN: u64 = 8;
    pub(in super::super) const INIT: u64 = 12;
    pub(in super::super) const INIT_ARRAY: u64 = 25;
    pub(in super::super) const INIT_ARRAY_LEN: u64 = 27;
    pub(in super::super) const GNU_HASH: u64 = 0x6fff_fef5;
}

const PROGRAM_HEADER_LEN: usize = 56;

/// A 64-bit little-endian file that was well-formed at first.
pub(super) struct Elf(pub(super) Vec<u8>);

/// A program header of it.
pub(super) struct Segment<'a> {
    header: &'a mut [u8],
}

impl Elf {
    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    fn headers(&self) -> Vec<usize> {
        let (start, count) = (self.word(32) as usize, usize::from(self.0[56]));
        (0..count)
            .map(|number| start + number * PROGRAM_HEADER_LEN)
            .collect()
    }

    fn kind(&self, header: usize) -> u32 {
        u32::from_le_bytes(self.0[header..header + 4].try_into().unwrap())
    }

    /// The `number`th segment of a kind.
    pub(super) fn segment(&mut self, kind: u32, number: usize) -> Segment<'_> {
        let mut found = self
            .headers()
            .into_iter()
            .filter(|header| self.kind(*header) == kind);
        let at = found.nth(number).expect("a linker makes such a segment");
        Segment {
            header: &mut self.0[at..at + PROGRAM_HEADER_LEN],
        }
    }

    /// Where the value of an entry for the loader stands.
    fn entry(&mut self, tag: u64) -> usize {
        let table = self.segment(DYNAMIC, 0);
        let (start, len) = (table.get(8) as usize, table.get(32) as usize);
        let mut entries = (start..start + len).step_by(16);
        entries
            .find(|at| self.word(*at) == tag)
            .expect("a linker makes such an entry")
            + 8
    }

    pub(super) fn set_dynamic(&mut self, tag: u64, value: u64) {
        let at = self.entry(tag);
        self.put(at, &value.to_le_bytes());
    }

    /// Where in the file lies what an entry for the loader points to.
    pub(super) fn dynamic_offset(&mut self, tag: u64) -> usize {
        let at = self.entry(tag);
        let address = self.word(at);
        let loads = self
            .headers()
            .into_iter()
            .filter(|header| self.kind(*header) == LOAD);
        let mut offsets = loads.filter_map(|header| {
            let (offset, start, len) = (
                self.word(header + 8),
                self.word(header + 16),
                self.word(header + 32),
            );
            (start..start + len)
                .contains(&address)
                .then_some((address - start + offset) as usize)
        });
        offsets.next().expect("it points into a segment")
    }
}

impl Segment<'_> {
    fn get(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.header[at..at + 8].try_into().unwrap())
    }

    fn set(&mut self, at: usize, value: u64) {
        self.header[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    pub(super) fn set_kind(&mut self, kind: u32) {
        self.header[..4].copy_from_slice(&kind.to_le_bytes());
    }

    /// 1 to run, 2 to write, 4 to read.
    pub(super) fn set_flags(&mut self, flags: u32) {
        self.header[4..8].copy_from_slice(&flags.to_le_bytes());
    }

    pub(super) fn address(&self) -> u64 {
        self.get(16)
    }

    pub(super) fn set_address(&mut self, address: u64) {
        self.set(16, address);
    }

    pub(super) fn set_file_len(&mut self, len: u64) {
        self.set(32, len);
    }

    pub(super) fn set_memory_len(&mut self, len: u64) {
        self.set(40, len);
    }
}
