//! Which statements are allowed, and which are not.

use super::*;

const WRITE: Access = Access::Write { returning: false };
const RETURNING: Access = Access::Write { returning: true };

fn refusal(sql: &str) -> String {
    classify(sql).expect_err(sql).to_string()
}

#[test]
fn reading_statements_go_to_a_reader_and_writing_ones_to_the_writer() {
    for (sql, access) in [
        ("SELECT 1", Access::Read),
        ("  /* note */ select a from b -- end", Access::Read),
        ("VALUES (1)", Access::Read),
        ("WITH a AS (SELECT 1) SELECT * FROM a;", Access::Read),
        (
            "with recursive a(x) as (select replace('a','b','c')) select x from a",
            Access::Read,
        ),
        (
            "SELECT 'DELETE; ATTACH', \"a;b\", [c;d], `e;f`, x'00'",
            Access::Read,
        ),
        ("INSERT INTO t VALUES (1) RETURNING a", RETURNING),
        (
            "with a as (select 1) delete from t where b = (select 1) returning *",
            RETURNING,
        ),
        ("INSERT INTO t VALUES ('returning')", WRITE),
        ("REPLACE INTO t VALUES (1)", WRITE),
        ("UPDATE t SET a = 1", WRITE),
        ("DELETE FROM t", WRITE),
        ("WITH a AS (SELECT 1) DELETE FROM t", WRITE),
        ("WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a", WRITE),
    ] {
        assert_eq!(classify(sql).map(|shape| shape.access), Ok(access), "{sql}");
    }
}

#[test]
fn only_parameters_outside_of_strings_count() {
    let shape = classify("SELECT '?', ?, \"?\", ? -- ?\n /* ? */ + ?").expect("is one statement");
    assert_eq!(shape.parameters, 3);
}

#[test]
fn statements_of_other_kinds_are_refused_by_their_first_keyword() {
    for keyword in [
        "ATTACH",
        "DETACH",
        "PRAGMA",
        "VACUUM",
        "BEGIN",
        "COMMIT",
        "END",
        "ROLLBACK",
        "SAVEPOINT",
        "RELEASE",
        "EXPLAIN",
        "ANALYZE",
        "REINDEX",
        "CREATE",
        "DROP",
        "ALTER",
    ] {
        let message = refusal(&format!(" -- hidden\n/* too */ {} x", keyword.to_lowercase()));
        assert!(
            message.starts_with(&format!("{keyword} is not allowed; a transaction may SELECT")),
            "{message}"
        );
    }
    assert!(refusal("(SELECT 1)").starts_with("( is not allowed"));
    assert!(refusal("'SELECT' 1").starts_with("'SELECT' is not allowed"));
    assert!(refusal("\u{feff}SELECT 1").contains("SELECT is not allowed"));
}

#[test]
fn a_second_statement_is_refused_wherever_it_hides() {
    for sql in [
        "SELECT 1; ATTACH 'x' AS y",
        "SELECT 1;;\n--\n/**/PRAGMA x",
        "SELECT 'a''';ATTACH 'b' AS c",
        "SELECT [a''b];ATTACH 'b' AS c",
        "SELECT \"a\"\"\" ; VACUUM INTO 'f'",
        "SELECT 1 --\n; ATTACH 'x' AS y",
        "SELECT x'00';ATTACH 'x' AS y",
    ] {
        assert_eq!(classify(sql), Err(Refusal::Several), "{sql}");
    }
    for sql in ["", "  ", ";;", "-- nothing", "/* nothing */ ;"] {
        assert_eq!(classify(sql), Err(Refusal::Empty), "{sql}");
    }
}

#[test]
fn text_that_sqlite_might_read_differently_is_refused() {
    for (sql, message) in [
        (
            "SELECT 'a",
            "a string or quoted name that starts with ' does not end",
        ),
        (
            "SELECT [a",
            "a string or quoted name that starts with [ does not end",
        ),
        ("SELECT 1 /* a", "a comment that starts with /* does not end"),
        ("SELECT 1 /*/", "a comment that starts with /* does not end"),
        (
            "SELECT $a(')",
            "the character '$' is not allowed here; parameters are written ?",
        ),
        (
            "SELECT :a",
            "the character ':' is not allowed here; parameters are written ?",
        ),
        (
            "SELECT @a",
            "the character '@' is not allowed here; parameters are written ?",
        ),
        (
            "SELECT 1\0; ATTACH",
            "the character '\\0' is not allowed here; parameters are written ?",
        ),
        (
            "SELECT 'a\0'",
            "the character '\\0' is not allowed here; parameters are written ?",
        ),
        (
            "SELECT ?1",
            "numbered parameters are not available; parameters are written ?",
        ),
    ] {
        assert_eq!(refusal(sql), message, "{sql}");
    }
}

#[test]
fn reserved_names_are_refused_in_any_quotes() {
    for sql in [
        "SELECT * FROM pragma_database_list",
        "SELECT * FROM \"PRAGMA_database_list\"",
        "SELECT * FROM [pragma_table_info]('a')",
        "SELECT * FROM 'pragma_table_list'",
        "SELECT load_extension('x')",
        "DELETE FROM _isms_migrations",
        "SELECT * FROM `dbstat`",
        "SELECT * FROM [_ISMS_inbox]",
        "WITH a AS (SELECT answer FROM \"_isms_inbox\") SELECT * FROM a",
        "INSERT INTO t SELECT hash FROM main . '_isms_inbox'",
        "UPDATE t SET a = 1 WHERE b IN (SELECT number FROM `_isms_inbox`)",
        "SELECT name FROM sqlite_master",
        "SELECT sql FROM main.\"SQLite_Schema\"",
    ] {
        assert!(refusal(sql).ends_with("is reserved"), "{sql}");
    }
    assert_eq!(classify("SELECT * FROM temp.x"), Err(Refusal::Temporary));
    assert!(classify("SELECT temp FROM readings WHERE temp > ?").is_ok());
}

#[test]
fn a_migration_is_cut_at_its_statements_and_triggers_stay_whole() {
    let trigger =
        "CREATE TRIGGER a AFTER INSERT ON t BEGIN UPDATE t SET b = CASE WHEN 1 THEN 2 END; SELECT 1; END";
    let sql =
        format!("-- first\nCREATE TABLE t (a TEXT DEFAULT ';');\n\n{trigger};\nINSERT INTO t VALUES ('x');;");
    assert_eq!(
        split_migration(&sql).expect("is a migration"),
        [
            (9, "CREATE TABLE t (a TEXT DEFAULT ';')"),
            (47, trigger),
            (47 + trigger.len() + 2, "INSERT INTO t VALUES ('x')"),
        ],
    );
}

#[test]
fn a_migration_may_not_leave_its_database() {
    for (sql, message) in [
        ("CREATE TEMP TABLE t (a)", "temporary tables are not available"),
        ("CREATE TABLE temp.t (a)", "temporary tables are not available"),
        (
            "CREATE VIRTUAL TABLE t USING fts5(a)",
            "CREATE VIRTUAL is not allowed in a migration",
        ),
        ("ATTACH 'a' AS b", "ATTACH is not allowed in a migration"),
        (
            "CREATE TABLE t (a); PRAGMA writable_schema = 1",
            "PRAGMA is not allowed in a migration",
        ),
        ("COMMIT", "COMMIT is not allowed in a migration"),
        (
            "DROP TABLE _isms_migrations",
            "the name _isms_migrations is reserved",
        ),
        (
            "ALTER TABLE [_isms_inbox] RENAME TO mine",
            "the name _isms_inbox is reserved",
        ),
        (
            "CREATE TRIGGER a AFTER INSERT ON t BEGIN DELETE FROM _isms_inbox; END",
            "the name _isms_inbox is reserved",
        ),
        (
            "CREATE VIEW mine AS SELECT * FROM \"_isms_inbox\"",
            "the name _isms_inbox is reserved",
        ),
        (
            "CREATE TABLE mine (a REFERENCES _isms_inbox)",
            "the name _isms_inbox is reserved",
        ),
        (
            "CREATE TABLE mine AS SELECT * FROM sqlite_schema",
            "the name sqlite_schema is reserved",
        ),
        ("INSERT INTO t VALUES (?)", "the character '?' is not allowed"),
    ] {
        let refused = split_migration(sql).expect_err(sql).reason.to_string();
        assert!(refused.starts_with(message), "{sql}: {refused}");
    }
}

#[test]
fn what_is_misspelt_is_told_in_sqlites_words_and_from_where() {
    for (sql, offset, message) in [
        ("CREAT TABLE t (a)", 0, "near \"CREAT\": syntax error"),
        (
            "SELECT 1;\n create tabel t (a)",
            11,
            "near \"tabel\": syntax error",
        ),
        ("DROP 't'", 0, "near \"'t'\": syntax error"),
        ("SELECT 1; CREATE", 10, "incomplete input"),
        (
            "SELECT 1;\nSELECT 'a",
            17,
            "a string or quoted name that starts with ' does not end",
        ),
    ] {
        let refused = split_migration(sql).expect_err(sql);
        assert_eq!(
            (refused.offset, refused.reason.to_string()),
            (offset, message.to_owned())
        );
    }
    assert_eq!(refusal("selct 1"), "near \"selct\": syntax error");
}
