//! The two sets of migrations make the same tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// What one migration does: the columns that it gives to each table, and its indexes. Each database has an order of columns of its
/// own.
#[derive(Debug, Default, PartialEq)]
struct Shape {
    columns: BTreeMap<String, BTreeSet<String>>,
    /// Name and table.
    indexes: BTreeMap<String, String>,
}

/// By file name.
fn shapes(database: &str) -> BTreeMap<String, Shape> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(database);
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    files
        .map(|file| (file.file_name().into_string().unwrap(), shape(&fs::read_to_string(file.path()).unwrap())))
        .collect()
}

fn shape(sql: &str) -> Shape {
    let code = |line: &str| line.split("--").next().unwrap_or_default().to_owned();
    let sql: String = sql.lines().map(code).collect::<Vec<_>>().join("\n");
    let mut shape = Shape::default();
    for statement in sql.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
        let words: Vec<&str> = statement.split_whitespace().collect();
        match words[..] {
            ["CREATE", "TABLE", table, ..] => {
                shape.columns.insert(table.to_owned(), columns(statement));
            }
            ["CREATE", "INDEX", name, "ON", table, ..] | ["CREATE", "UNIQUE", "INDEX", name, "ON", table, ..] => {
                shape.indexes.insert(name.to_owned(), table.to_owned());
            }
            ["ALTER", "TABLE", table, "ADD", "COLUMN", column, ..] => {
                shape.columns.entry(table.to_owned()).or_default().insert(column.to_owned());
            }
            // One of them may have to do more to get there; what that is, its own tests show.
            ["UPDATE" | "INSERT" | "DELETE", ..] | ["ALTER", "TABLE", _, "SET" | "ALTER", ..] => {}
            _ => panic!("this test does not know what `{}` does to the tables", words.join(" ")),
        }
    }
    shape
}

/// The columns between the outermost parentheses.
fn columns(statement: &str) -> BTreeSet<String> {
    let (_, list) = statement.split_once('(').unwrap();
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in list.chars() {
        match c {
            ')' if depth == 0 => break,
            ',' if depth == 0 => parts.push(String::new()),
            c => parts.last_mut().unwrap().push(c),
        }
        depth += i32::from(c == '(') - i32::from(c == ')');
    }
    let first = parts.iter().filter_map(|part| part.split_whitespace().next());
    first
        .filter(|word| !["PRIMARY", "UNIQUE", "CHECK", "FOREIGN", "CONSTRAINT"].contains(word))
        .map(str::to_owned)
        .collect()
}

#[test]
fn both_databases_have_the_same_tables() {
    let (sqlite, postgres) = (shapes("sqlite"), shapes("postgres"));
    assert!(sqlite.keys().eq(postgres.keys()), "{:?} and {:?}", sqlite.keys(), postgres.keys());
    for (file, ours) in &sqlite {
        let theirs = &postgres[file];
        assert!(!ours.columns.is_empty() || !ours.indexes.is_empty(), "migrations/sqlite/{file} makes nothing");
        assert!(
            ours.columns.keys().eq(theirs.columns.keys()),
            "migrations/*/{file}: the tables are {:?} on SQLite, {:?} on Postgres",
            ours.columns.keys(),
            theirs.columns.keys(),
        );
        for (table, columns) in &ours.columns {
            assert_eq!(columns, &theirs.columns[table], "migrations/*/{file}: the columns of `{table}`");
        }
        assert_eq!(ours.indexes, theirs.indexes, "migrations/*/{file}: the indexes");
    }
}
