//! One statement for both databases: its text with numbered parameters, its arguments, and the rows that come back.

use std::borrow::Cow;

use bytes::Bytes;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments, Column as _, Row as _, TypeInfo, ValueRef};
use uuid::Uuid;

use super::StoreError;
use super::dialect::Dialect;
use super::text;

/// A statement and its arguments.
pub(super) struct Statement<'a> {
    pub(super) dialect: Dialect,
    pub(super) sql: String,
    arguments: Vec<Argument<'a>>,
    parameters: usize,
}

enum Argument<'a> {
    Int(i64),
    Uuid(Uuid),
    Bytes(&'a [u8]),
    Text(Option<Cow<'a, str>>),
    Rows(Rows<'a>),
}

/// Many rows as one argument. All columns have the same length.
pub(super) struct Rows<'a> {
    pub(super) alias: &'static str,
    pub(super) columns: Vec<(&'static str, Column<'a>)>,
}

/// One column of [`Rows`].
pub(super) enum Column<'a> {
    /// Integers and times.
    Int(Vec<i64>),
    /// Integers and times that may be missing.
    OptionalInt(Vec<Option<i64>>),
    /// Ids.
    Uuid(Vec<Uuid>),
    /// Ids that may be missing.
    OptionalUuid(Vec<Option<Uuid>>),
    /// Payloads.
    Bytes(Vec<&'a [u8]>),
    /// Text, already escaped.
    Text(Vec<Option<Cow<'a, str>>>),
}

impl<'a> Rows<'a> {
    /// Rows that the statement calls `alias`.
    pub(super) fn new(alias: &'static str) -> Rows<'a> {
        Rows { alias, columns: Vec::with_capacity(16) }
    }

    pub(super) fn ints(self, name: &'static str, values: impl Iterator<Item = i64>) -> Rows<'a> {
        self.column(name, Column::Int(values.collect()))
    }

    pub(super) fn optional_ints(self, name: &'static str, values: impl Iterator<Item = Option<i64>>) -> Rows<'a> {
        self.column(name, Column::OptionalInt(values.collect()))
    }

    pub(super) fn uuids(self, name: &'static str, values: impl Iterator<Item = Uuid>) -> Rows<'a> {
        self.column(name, Column::Uuid(values.collect()))
    }

    pub(super) fn optional_uuids(self, name: &'static str, values: impl Iterator<Item = Option<Uuid>>) -> Rows<'a> {
        self.column(name, Column::OptionalUuid(values.collect()))
    }

    pub(super) fn bytes(self, name: &'static str, values: impl Iterator<Item = &'a [u8]>) -> Rows<'a> {
        self.column(name, Column::Bytes(values.collect()))
    }

    pub(super) fn texts(self, name: &'static str, values: impl Iterator<Item = Cow<'a, str>>) -> Rows<'a> {
        self.column(name, Column::Text(values.map(|value| Some(text::escape_cow(value))).collect()))
    }

    pub(super) fn optional_texts(
        self,
        name: &'static str,
        values: impl Iterator<Item = Option<Cow<'a, str>>>,
    ) -> Rows<'a> {
        self.column(name, Column::Text(values.map(|value| value.map(text::escape_cow)).collect()))
    }

    fn column(mut self, name: &'static str, column: Column<'a>) -> Rows<'a> {
        self.columns.push((name, column));
        self
    }

    /// The rows as SQLite takes them: see [`Dialect::rows`].
    fn pack(&self) -> (String, Vec<u8>) {
        let len = self.columns.first().map_or(0, |(_, column)| column.len());
        let width: usize = self.columns.iter().map(|(_, column)| column.width()).sum();
        let payload: usize = self.columns.iter().map(|(_, column)| column.payload()).sum();
        let (mut places, mut blob) = (String::with_capacity(8 * len + 2), Vec::with_capacity(width * len + payload));
        let mut digits = itoa::Buffer::new();
        let mut payload_at = width * len;
        for row in 0..len {
            places.push(if row == 0 { '[' } else { ',' });
            // SQL counts bytes from 1.
            places.push_str(digits.format(blob.len() + 1));
            for (_, column) in &self.columns {
                column.pack(row, &mut blob, &mut payload_at);
            }
        }
        places.push_str(if len == 0 { "[]" } else { "]" });
        for row in 0..len {
            for (_, column) in &self.columns {
                blob.extend_from_slice(column.payload_of(row));
            }
        }
        (places, blob)
    }
}

/// How many bytes an integer takes in a packed row: its longest is `-9223372036854775808`.
pub(super) const INT_WIDTH: usize = 20;

impl Column<'_> {
    fn len(&self) -> usize {
        match self {
            Column::Int(values) => values.len(),
            Column::OptionalInt(values) => values.len(),
            Column::Uuid(values) => values.len(),
            Column::OptionalUuid(values) => values.len(),
            Column::Bytes(values) => values.len(),
            Column::Text(values) => values.len(),
        }
    }

    /// How many bytes it takes in a packed row.
    pub(super) fn width(&self) -> usize {
        match self {
            Column::Int(_) | Column::OptionalInt(_) => INT_WIDTH,
            Column::Uuid(_) | Column::OptionalUuid(_) => 16,
            // Where it begins, and how long it is.
            Column::Bytes(_) | Column::Text(_) => 2 * INT_WIDTH,
        }
    }

    /// How many bytes all its values take after the packed rows.
    fn payload(&self) -> usize {
        match self {
            Column::Int(_) | Column::OptionalInt(_) | Column::Uuid(_) | Column::OptionalUuid(_) => 0,
            Column::Bytes(_) | Column::Text(_) => (0..self.len()).map(|row| self.payload_of(row).len()).sum(),
        }
    }

    fn payload_of(&self, row: usize) -> &[u8] {
        match self {
            Column::Int(_) | Column::OptionalInt(_) | Column::Uuid(_) | Column::OptionalUuid(_) => &[],
            Column::Bytes(values) => values[row],
            Column::Text(values) => values[row].as_deref().unwrap_or_default().as_bytes(),
        }
    }

    /// Appends the value of a row to `blob`; what is too long for that goes to `payload_at`.
    fn pack(&self, row: usize, blob: &mut Vec<u8>, payload_at: &mut usize) {
        let mut int = |value: Option<i64>| {
            let mut field = [0; INT_WIDTH];
            if let Some(value) = value {
                field.fill(b' ');
                let mut digits = itoa::Buffer::new();
                let digits = digits.format(value).as_bytes();
                field[..digits.len()].copy_from_slice(digits);
            }
            blob.extend_from_slice(&field);
        };
        match self {
            Column::Int(values) => int(Some(values[row])),
            Column::OptionalInt(values) => int(values[row]),
            Column::Uuid(values) => blob.extend_from_slice(values[row].as_bytes()),
            Column::OptionalUuid(values) => blob.extend_from_slice(values[row].unwrap_or_default().as_bytes()),
            Column::Bytes(_) | Column::Text(_) => {
                let is_null = matches!(self, Column::Text(values) if values[row].is_none());
                let len = self.payload_of(row).len();
                // No payload is larger than memory.
                int((!is_null).then_some(*payload_at as i64 + 1));
                int(Some(len as i64));
                *payload_at += len;
            }
        }
    }
}

impl<'a> Statement<'a> {
    /// An empty one.
    pub(super) fn new(dialect: Dialect) -> Statement<'a> {
        Statement { dialect, sql: String::with_capacity(1024), arguments: Vec::new(), parameters: 0 }
    }

    /// More text.
    pub(super) fn push(&mut self, text: &str) {
        self.sql.push_str(text);
    }

    /// Whether nothing was written yet.
    pub(super) fn is_empty(&self) -> bool {
        self.sql.is_empty()
    }

    /// An integer or a time: its placeholder.
    pub(super) fn int(&mut self, value: i64) -> String {
        self.argument(Argument::Int(value))
    }

    /// An id: its placeholder.
    pub(super) fn uuid(&mut self, value: Uuid) -> String {
        self.argument(Argument::Uuid(value))
    }

    /// A payload: its placeholder.
    pub(super) fn bytes(&mut self, value: &'a [u8]) -> String {
        self.argument(Argument::Bytes(value))
    }

    /// A text: its placeholder.
    pub(super) fn string(&mut self, value: &'a str) -> String {
        self.argument(Argument::Text(Some(text::escape(value))))
    }

    /// A text that may be owned: its placeholder.
    pub(super) fn text(&mut self, value: Cow<'a, str>) -> String {
        self.argument(Argument::Text(Some(text::escape_cow(value))))
    }

    /// A number of rows: its placeholder.
    pub(super) fn limit(&mut self, rows: usize) -> String {
        self.int(i64::try_from(rows).unwrap_or(i64::MAX))
    }

    /// A text that may be missing: its placeholder.
    pub(super) fn optional_string(&mut self, value: Option<&'a str>) -> String {
        self.argument(Argument::Text(value.map(text::escape)))
    }

    /// Many rows: what `FROM` takes.
    pub(super) fn rows(&mut self, rows: Rows<'a>) -> String {
        let (text, parameters) = self.dialect.rows(&rows, self.parameters + 1);
        self.parameters += parameters;
        self.arguments.push(Argument::Rows(rows));
        text
    }

    fn argument(&mut self, argument: Argument<'a>) -> String {
        self.parameters += 1;
        self.arguments.push(argument);
        format!("${}", self.parameters)
    }

    /// The arguments for SQLite.
    pub(super) fn sqlite_arguments(&self) -> Result<SqliteArguments<'_>, sqlx::Error> {
        let mut bound = SqliteArguments::default();
        for argument in &self.arguments {
            match argument {
                Argument::Int(value) => Arguments::add(&mut bound, *value),
                Argument::Uuid(value) => Arguments::add(&mut bound, *value),
                Argument::Bytes(value) => Arguments::add(&mut bound, *value),
                Argument::Text(value) => Arguments::add(&mut bound, value.as_deref()),
                Argument::Rows(rows) => {
                    let (places, blob) = rows.pack();
                    Arguments::add(&mut bound, places).and_then(|()| Arguments::add(&mut bound, blob))
                }
            }
            .map_err(sqlx::Error::Encode)?;
        }
        Ok(bound)
    }

    /// The arguments for Postgres.
    pub(super) fn postgres_arguments(&self) -> Result<PgArguments, sqlx::Error> {
        let mut bound = PgArguments::default();
        for argument in &self.arguments {
            match argument {
                Argument::Int(value) => bound.add(*value),
                Argument::Uuid(value) => bound.add(*value),
                Argument::Bytes(value) => bound.add(*value),
                Argument::Text(value) => bound.add(value.as_deref()),
                Argument::Rows(rows) => rows.columns.iter().try_for_each(|(_, column)| match column {
                    Column::Int(values) => bound.add(values.as_slice()),
                    Column::OptionalInt(values) => bound.add(values.as_slice()),
                    Column::Uuid(values) => bound.add(values.as_slice()),
                    Column::OptionalUuid(values) => bound.add(values.as_slice()),
                    Column::Bytes(values) => bound.add(values.as_slice()),
                    Column::Text(values) => bound.add(values.as_slice()),
                }),
            }
            .map_err(sqlx::Error::Encode)?;
        }
        Ok(bound)
    }
}

/// A row that came back.
pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

/// `try_get` on either row.
macro_rules! cell {
    ($row:expr, $column:expr) => {
        match $row {
            Row::Sqlite(row) => row.try_get($column),
            Row::Postgres(row) => row.try_get($column),
        }
        .map_err(|error| $row.corrupt($column, error))
    };
}

impl Row {
    pub(super) fn int(&self, column: usize) -> Result<i64, StoreError> {
        let value = self.optional_int(column)?;
        value.ok_or_else(|| self.corrupt(column, "it is null"))
    }

    pub(super) fn optional_int(&self, column: usize) -> Result<Option<i64>, StoreError> {
        match self {
            Row::Sqlite(row) => row.try_get(column),
            Row::Postgres(row) => {
                // sqlx does not widen.
                let narrow = row.try_get_raw(column).is_ok_and(|value| value.type_info().name() == "INT2");
                if narrow { row.try_get(column).map(|n: Option<i16>| n.map(i64::from)) } else { row.try_get(column) }
            }
        }
        .map_err(|error| self.corrupt(column, error))
    }

    /// A number that is never negative.
    pub(super) fn count<N: TryFrom<i64>>(&self, column: usize) -> Result<N, StoreError> {
        let value = self.int(column)?;
        N::try_from(value).map_err(|_| self.corrupt(column, format!("{value} is out of range")))
    }

    pub(super) fn uuid(&self, column: usize) -> Result<Uuid, StoreError> {
        cell!(self, column)
    }

    pub(super) fn optional_uuid(&self, column: usize) -> Result<Option<Uuid>, StoreError> {
        cell!(self, column)
    }

    pub(super) fn bytes(&self, column: usize) -> Result<Bytes, StoreError> {
        let value: Vec<u8> = cell!(self, column)?;
        Ok(Bytes::from(value))
    }

    pub(super) fn string(&self, column: usize) -> Result<String, StoreError> {
        let value: String = cell!(self, column)?;
        Ok(text::unescape(value))
    }

    pub(super) fn optional_string(&self, column: usize) -> Result<Option<String>, StoreError> {
        let value: Option<String> = cell!(self, column)?;
        Ok(value.map(text::unescape))
    }

    /// That this cell can't be read.
    pub(super) fn corrupt(&self, column: usize, why: impl std::fmt::Display) -> StoreError {
        let name = match self {
            Row::Sqlite(row) => row.columns().get(column).map(|column| column.name()),
            Row::Postgres(row) => row.columns().get(column).map(|column| column.name()),
        };
        // Where a row has an id, it comes first.
        let id: Result<Uuid, sqlx::Error> = match self {
            Row::Sqlite(row) => row.try_get(0),
            Row::Postgres(row) => row.try_get(0),
        };
        let id = id.map_or_else(|_| "without an id".to_owned(), |id| id.to_string());
        StoreError::Corrupt(format!("column `{}` of row {id}: {why}", name.unwrap_or("?")))
    }
}
