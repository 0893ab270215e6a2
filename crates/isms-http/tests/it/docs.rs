//! docs/errors.md keeps up with the code.

use isms_protocol::ErrorCode;

#[test]
fn every_error_code_has_its_paragraph() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md");
    let text = std::fs::read_to_string(path).unwrap();
    for code in ErrorCode::ALL {
        let heading = format!(
            "\n## {} ({}, HTTP {})\n",
            code.name(),
            *code as u16,
            code.http_status()
        );
        let (_, section) = text
            .split_once(&heading)
            .unwrap_or_else(|| panic!("missing section: {heading}"));
        let section = section.split("\n## ").next().unwrap().trim();
        assert!(
            section.len() > 40,
            "the section of {} says too little",
            code.name()
        );
    }
    let sections = text.matches("\n## ").count();
    assert_eq!(
        sections,
        ErrorCode::ALL.len(),
        "a section that belongs to no code"
    );
}
