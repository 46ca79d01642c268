//! The two databases, where they differ: how many rows become one parameter list, a few clauses, and error codes.

use sqlx::error::DatabaseError;

use super::StoreError;
use super::statement::{Column, Rows};

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
    /// Postgres unnests one array for each column. SQLite has no arrays: it is given a JSON array of rows of integers, and
    /// one blob with everything that is no integer, which the integers point into. So a statement's text does not depend on
    /// the number of rows, and no payload is escaped.
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
                let (json, blob) = (first, first + 1);
                let mut at = 0;
                let columns: Vec<String> = (rows.columns.iter())
                    .map(|(name, column)| {
                        let expression = match column {
                            Column::Int(_) => format!("value ->> {at}"),
                            Column::Uuid(_) => format!("substr(${blob}, value ->> {at}, 16)"),
                            Column::Bytes(_) => format!("substr(${blob}, value ->> {at}, value ->> {})", at + 1),
                            Column::Text(_) => {
                                format!("CAST(substr(${blob}, value ->> {at}, value ->> {}) AS TEXT)", at + 1)
                            }
                        };
                        at += column.integers();
                        format!("{expression} AS {name}")
                    })
                    .collect();
                (format!("(SELECT {} FROM json_each(${json})) AS {}", columns.join(", "), rows.alias), 2)
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
        Column::Int(_) => "bigint",
        Column::Uuid(_) => "uuid",
        Column::Bytes(_) => "bytea",
        Column::Text(_) => "text",
    }
}
