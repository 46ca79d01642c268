//! A connection to either database, for one caller.

use std::sync::Mutex;
use std::time::Duration;

use sqlx::{PgConnection, SqliteConnection};
use tokio::time::timeout;

use super::StoreError;
use super::dialect::Dialect;
use super::lanes::{Lane, Lanes};
use super::statement::{Row, Statement};

/// The longest that a statement may take. A server that answers says so itself a little earlier (`statement_timeout`); this
/// is for one that does not.
pub(super) const PATIENCE: Duration = Duration::from_secs(12);

/// The connections of a store.
pub(super) enum Database {
    /// SQLite has one writer at a time, and any number of readers beside it. In memory, both are the same connection, and
    /// `_keeper` an idle one that keeps the database alive.
    Sqlite {
        writer: Lanes<SqliteConnection>,
        readers: Lanes<SqliteConnection>,
        _keeper: Option<Mutex<SqliteConnection>>,
    },
    /// A server.
    Postgres(Lanes<PgConnection>),
}

impl Database {
    /// Which it is.
    pub(super) fn dialect(&self) -> Dialect {
        match self {
            Database::Sqlite { .. } => Dialect::Sqlite,
            Database::Postgres(_) => Dialect::Postgres,
        }
    }

    /// A connection that only reads.
    pub(super) async fn reader(&self) -> Result<Session, StoreError> {
        match self {
            Database::Sqlite { readers, .. } => readers.lane().await.map(Session::Sqlite),
            Database::Postgres(lanes) => lanes.lane().await.map(Session::Postgres),
        }
    }

    /// A connection that also writes.
    pub(super) async fn writer(&self) -> Result<Session, StoreError> {
        match self {
            Database::Sqlite { writer, .. } => writer.lane().await.map(Session::Sqlite),
            Database::Postgres(lanes) => lanes.lane().await.map(Session::Postgres),
        }
    }

    /// A connection to which the database looks, from its first statement on, as it was then: until [`Session::end`].
    pub(super) async fn snapshot(&self) -> Result<Session, StoreError> {
        let begin = match self.dialect() {
            Dialect::Sqlite => "BEGIN",
            Dialect::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        };
        self.reader().await?.tell(begin).await
    }

    /// A transaction that writes.
    pub(super) async fn transaction(&self) -> Result<Session, StoreError> {
        let begin = match self.dialect() {
            Dialect::Sqlite => "BEGIN IMMEDIATE",
            Dialect::Postgres => "BEGIN",
        };
        self.writer().await?.tell(begin).await
    }

    /// Runs one statement that only reads.
    pub(super) async fn read(&self, statement: &Statement<'_>) -> Result<Vec<Row>, StoreError> {
        let (session, rows) = self.reader().await?.run(statement).await?;
        session.hand_back();
        Ok(rows)
    }

    /// Runs one statement that writes, as a transaction of its own.
    pub(super) async fn write(&self, statement: &Statement<'_>) -> Result<Vec<Row>, StoreError> {
        let (session, rows) = self.writer().await?.run(statement).await?;
        session.hand_back();
        Ok(rows)
    }

    /// Closes every connection that is not in use.
    pub(super) async fn close(&self) {
        match self {
            Database::Sqlite { writer, readers, .. } => {
                readers.close().await;
                // The last one to close folds the write-ahead log into the file.
                writer.close().await;
            }
            Database::Postgres(lanes) => lanes.close().await,
        }
    }
}

/// A connection on loan. Dropped instead of handed back, it is closed and what it had begun is rolled back.
pub(super) enum Session {
    Sqlite(Lane<SqliteConnection>),
    Postgres(Lane<PgConnection>),
}

impl Session {
    /// Which database it is connected to.
    pub(super) fn dialect(&self) -> Dialect {
        match self {
            Session::Sqlite(_) => Dialect::Sqlite,
            Session::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Runs a statement (on SQLite: or several, one after the other) and gives its rows, and the connection back if all
    /// went well.
    pub(super) async fn run(self, statement: &Statement<'_>) -> Result<(Session, Vec<Row>), StoreError> {
        self.run_within(PATIENCE, statement).await
    }

    /// The same with another patience.
    pub(super) async fn run_within(
        mut self,
        patience: Duration,
        statement: &Statement<'_>,
    ) -> Result<(Session, Vec<Row>), StoreError> {
        let dialect = self.dialect();
        let error = match timeout(patience, self.fetch(statement)).await {
            Ok(Ok(rows)) => return Ok((self, rows)),
            Ok(Err(error @ sqlx::Error::Database(_))) => return Err(dialect.error(error)),
            Ok(Err(error)) => dialect.error(error),
            Err(_) => StoreError::Unavailable(format!("it did not answer within {patience:?}")),
        };
        match self {
            Session::Sqlite(lane) => lane.broke(),
            Session::Postgres(lane) => lane.broke(),
        }
        Err(error)
    }

    /// Runs a statement without arguments or rows.
    pub(super) async fn tell(self, text: &str) -> Result<Session, StoreError> {
        let mut statement = Statement::new(self.dialect());
        statement.push(text);
        Ok(self.run(&statement).await?.0)
    }

    /// Ends a transaction with this word, and gives the connection back.
    pub(super) async fn end(self, word: &str) -> Result<(), StoreError> {
        self.tell(word).await?.hand_back();
        Ok(())
    }

    async fn fetch(&mut self, statement: &Statement<'_>) -> Result<Vec<Row>, sqlx::Error> {
        let text = statement.sql.as_str();
        match self {
            Session::Sqlite(lane) => {
                let query = sqlx::query_with(text, statement.sqlite_arguments()?);
                let rows = query.fetch_all(lane.connection()).await?;
                Ok(rows.into_iter().map(Row::Sqlite).collect())
            }
            Session::Postgres(lane) => {
                let query = sqlx::query_with(text, statement.postgres_arguments()?);
                let rows = query.fetch_all(lane.connection()).await?;
                Ok(rows.into_iter().map(Row::Postgres).collect())
            }
        }
    }

    /// For the next one.
    pub(super) fn hand_back(self) {
        match self {
            Session::Sqlite(lane) => lane.hand_back(),
            Session::Postgres(lane) => lane.hand_back(),
        }
    }
}
