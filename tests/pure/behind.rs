//! A store in front of another one: all of its methods but `commit`, in which the tests have their say.

/// The methods of a [`Store`](sagad::store::Store) that asks `self.store`, once `self.$first()` lets it.
macro_rules! ask_the_store_behind {
    (after $first:ident) => {
        $crate::behind::ask_the_store_behind! { $first
            load(ids: &[sagad::core::id::SagaId]) -> Vec<sagad::store::StoredSaga>;
            holders(claims: &[sagad::store::Claim]) -> Vec<sagad::store::Holder>;
            slots(definition: &str) -> Vec<String>;
            take_due(now: sagad::core::time::Time, lease: sagad::core::time::Time, limit: usize) -> Vec<sagad::core::id::SagaId>;
            next_due() -> Option<sagad::core::time::Time>;
            take_outbox(now: sagad::core::time::Time, lease: sagad::core::time::Time, limit: usize) -> Vec<sagad::store::OutboxRow>;
            keep_outbox(rows: &[(uuid::Uuid, u32)], lease: sagad::core::time::Time) -> Vec<uuid::Uuid>;
            release_outbox() -> ();
            held(definition: &str, freed: sagad::store::Freed<'_>, limit: usize) -> Vec<sagad::core::id::SagaId>;
            held_definitions() -> Vec<String>;
            purge(
                definition: &str,
                ended_before: sagad::core::time::Time,
                after: Option<sagad::core::id::SagaId>,
                limit: usize
            ) -> sagad::store::Purged;
            list(filter: &sagad::store::Filter) -> Vec<sagad::store::StoredSaga>;
            counts() -> Vec<(String, sagad::core::saga::Status, u64)>;
            journal(saga: sagad::core::id::SagaId, from: u64) -> Vec<sagad::store::JournalRow>;
            keep_revision(name: &str, source: &sagad::store::Source) -> u32;
            revision(name: &str, revision: u32) -> Option<sagad::store::Source>;
            revisions(name: &str) -> Vec<(u32, sagad::core::time::Time)>;
            revisions_in_use() -> Vec<(String, u32)>;
            all_revisions() -> Vec<(String, u32)>;
            dead_letters(before: Option<uuid::Uuid>, limit: usize) -> Vec<sagad::store::DeadLetter>;
            dead_letter(id: uuid::Uuid) -> Option<sagad::store::DeadLetter>;
            delete_dead_letter(id: uuid::Uuid) -> bool;
            secret() -> [u8; 32];
            ping() -> ();
        }
    };
    ($first:ident $($method:ident($($name:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(async fn $method(&self, $($name: $type),*) -> Result<$answer, sagad::store::StoreError> {
            self.$first().await?;
            self.store.$method($($name),*).await
        })*
    };
}

pub(crate) use ask_the_store_behind;
