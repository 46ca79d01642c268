//! The two databases, where they differ: how many rows become one parameter list, a few clauses, and error codes.

use sqlx::error::DatabaseError;

use super::StoreError;
use super::statement::{Column, INT_WIDTH, Rows};

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// SQLite, the library linked in.
    Sqlite,
    /// A PostgreSQL server.
    Postgres,
}

impl Dialect {
    /// What `FROM` takes to read `rows`, with their parameters numbered from `first`; and how many parameters those are.
    ///
    /// Postgres unnests one array for each column. SQLite has no arrays: it is given one blob, with a record of fixed width for
    /// each row and all payloads behind the records, and a JSON array of where each record begins. So a statement's text does
    /// not depend on the number of rows, nothing is escaped, and no JSON but a list of integers is parsed (a JSON array for
    /// each row would take three times as long).
    pub(super) fn rows(self, rows: &Rows<'_>, first: usize) -> (String, usize) {
        match self {
            Dialect::Postgres => {
                let arrays: Vec<String> = (rows.columns.iter().enumerate())
                    .map(|(i, (_, column))| format!("${}::{}[]", first + i, postgres_type(column)))
                    .collect();
                let names: Vec<&str> = rows.columns.iter().map(|(name, _)| *name).collect();
                let text = format!("unnest({}) AS {}({})", arrays.join(", "), rows.alias, names.join(", "));
                (text, arrays.len())
            }
            Dialect::Sqlite => {
                let (places, blob) = (first, first + 1);
                let mut at = 0;
                let columns: Vec<String> = (rows.columns.iter())
                    .map(|(name, column)| {
                        let bytes = |skip, width| format!("substr(${blob}, value + {}, {width})", at + skip);
                        let int = |skip| format!("CAST({} AS INTEGER)", bytes(skip, INT_WIDTH));
                        // A missing integer is all zero bytes.
                        let optional_int = |skip| {
                            format!("CAST(nullif({}, zeroblob({INT_WIDTH})) AS INTEGER)", bytes(skip, INT_WIDTH))
                        };
                        let expression = match column {
                            Column::Int(_) => int(0),
                            Column::OptionalInt(_) => optional_int(0),
                            Column::Uuid(_) => bytes(0, 16),
                            // Nothing has an id of zeros.
                            Column::OptionalUuid(_) => format!("nullif({}, zeroblob(16))", bytes(0, 16)),
                            Column::Bytes(_) => format!("substr(${blob}, {}, {})", int(0), int(INT_WIDTH)),
                            Column::Text(_) => {
                                format!("CAST(substr(${blob}, {}, {}) AS TEXT)", optional_int(0), int(INT_WIDTH))
                            }
                        };
                        at += column.width();
                        format!("{expression} AS {name}")
                    })
                    .collect();
                (format!("(SELECT {} FROM json_each(${places})) AS {}", columns.join(", "), rows.alias), 2)
            }
        }
    }

    /// After a `SELECT` whose rows the caller takes for itself: what others are taking is not waited for.
    pub(super) fn skip_locked(self) -> &'static str {
        match self {
            // One writer at a time: nobody else is taking anything.
            Dialect::Sqlite => "",
            Dialect::Postgres => "FOR UPDATE SKIP LOCKED",
        }
    }

    /// That a column equals a value, for an index range that begins with this column and is wanted in its order.
    ///
    /// Postgres, told of an equality, takes any index that has the rest of the order, and may read a whole table in search of a
    /// rare value.
    pub(super) fn leads(self, column: &str, value: &str) -> String {
        match self {
            Dialect::Sqlite => format!("{column} = {value}"),
            Dialect::Postgres => format!("{column} = ANY (ARRAY[{value}])"),
        }
    }

    /// Which of its slots of the counters a connection writes.
    pub(super) fn counter_slot(self) -> &'static str {
        match self {
            Dialect::Sqlite => "0",
            Dialect::Postgres => "pg_backend_pid() % 64",
        }
    }

    /// Whether asking again may help.
    pub(super) fn classify(self, error: &dyn DatabaseError) -> StoreError {
        let code = error.code().unwrap_or_default();
        let text = format!("{} ({code})", error.message());
        match self {
            Dialect::Sqlite => match code.parse::<u32>().map(|extended| extended & 0xff) {
                // BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL (a lock that is not to be had)
                Ok(5..=10 | 13..=15) => StoreError::Unavailable(text),
                // CORRUPT, NOTADB
                Ok(11 | 26) => StoreError::Corrupt(text),
                _ => StoreError::Refused(text),
            },
            Dialect::Postgres => match &*code {
                // Serialization failure, deadlock, lock not available, a server that is read-only for now, idle in a
                // transaction for too long.
                "40001" | "40P01" | "55P03" | "25006" | "25P03" => StoreError::Unavailable(text),
                // Data corrupted, index corrupted.
                "XX001" | "XX002" => StoreError::Corrupt(text),
                // Connection lost, out of resources, operator intervention (shutting down, a statement that timed out), IO.
                _ if ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)) => {
                    StoreError::Unavailable(text)
                }
                _ => StoreError::Refused(text),
            },
        }
    }

    /// What became of an operation, in the caller's terms.
    pub(super) fn error(self, error: sqlx::Error) -> StoreError {
        match error {
            sqlx::Error::Database(error) => self.classify(error.as_ref()),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::TypeNotFound { .. } => {
                StoreError::Corrupt(error.to_string())
            }
            sqlx::Error::Configuration(_) | sqlx::Error::Encode(_) => StoreError::Refused(error.to_string()),
            // The connection, or the thread that SQLite runs on, broke.
            other => StoreError::Unavailable(other.to_string()),
        }
    }
}

fn postgres_type(column: &Column<'_>) -> &'static str {
    match column {
        Column::Int(_) | Column::OptionalInt(_) => "bigint",
        Column::Uuid(_) | Column::OptionalUuid(_) => "uuid",
        Column::Bytes(_) => "bytea",
        Column::Text(_) => "text",
    }
}
