//! Pages of whole sagas: complete, bounded, and with what is left of sagas that are not there.

use std::collections::BTreeSet;

use sagad::store::ItemsWrite;
use sagad::store::audit::{Audit, Page, Stray, StrayRow};

use super::*;
use crate::verify::Backdoor;

over_both!(pages_have_every_saga_once, a_page_of_large_sagas_ends_early, what_is_left_behind_is_found_and_may_go);

async fn pages(store: &SqlStore, limit: usize) -> Vec<Page> {
    let (mut pages, mut after) = (Vec::new(), None);
    loop {
        let page = store.page(after, limit).await.expect("a page");
        assert!(page.unreadable.is_empty());
        after = page.next;
        pages.push(page);
        if after.is_none() {
            return pages;
        }
    }
}

fn with_items(mut write: SagaWrite) -> SagaWrite {
    write.items = vec![ItemsWrite { step: 1, chunk: -1, state: Bytes::from_static(b"[]") }];
    write
}

async fn pages_have_every_saga_once(place: &Sql) {
    let store = place.open().await;
    assert_eq!(pages(&store, 10).await.len(), 1, "an empty one");
    let mut ids: Vec<SagaId> = (0..25).map(|_| id()).collect();
    let key = |id: SagaId| claim(ClaimKind::Key, &id.to_string());
    let births = ids.iter().map(|id| {
        let mut write = claiming(with_items(birth(*id, "order")), vec![(key(*id), None)]);
        write.birth.as_mut().expect("a birth").key = Some(id.to_string().into());
        write
    });
    put(&store, births.collect()).await;
    put(&store, ids.iter().map(|id| change(*id, 1)).collect()).await;
    ids.sort_unstable();
    let pages = pages(&store, 10).await;
    assert_eq!(pages.iter().map(|page| page.sagas.len()).collect::<Vec<_>>(), [10, 10, 5]);
    let sagas: Vec<_> = pages.into_iter().flat_map(|page| page.sagas).collect();
    assert_eq!(sagas.iter().map(|saga| saga.stored.id).collect::<Vec<_>>(), ids);
    for saga in sagas {
        let journal: Vec<(u64, u64)> = saga.journal.iter().map(|row| (row.version, row.first_seq)).collect();
        assert_eq!((journal, saga.stored.items.len()), (vec![(1, 1), (2, 3)], 1));
        assert_eq!(saga.key_holder.map(|holder| holder.saga), Some(saga.stored.id));
        assert_eq!((saga.columns.status, saga.columns.created_at), (Ok(Status::Running), NOW));
    }
}

async fn a_page_of_large_sagas_ends_early(place: &Sql) {
    let store = place.open().await;
    let large = |bytes: usize| Bytes::from(vec![b'1'; bytes]);
    let mut writes: Vec<SagaWrite> = (0..4).map(|_| birth(id(), "order")).collect();
    // Whichever of its parts it is that makes it large.
    writes[0].entries = large(5 << 20);
    writes[1].row.state = large(5 << 20);
    writes[2].birth.as_mut().expect("a birth").input = large(5 << 20);
    writes[3].items = vec![ItemsWrite { step: 0, chunk: 0, state: large(9 << 20) }];
    put(&store, writes).await;
    let pages = pages(&store, 100).await;
    assert_eq!(pages.iter().map(|page| page.sagas.len()).collect::<Vec<_>>(), [1, 1, 1, 1]);
}

async fn what_is_left_behind_is_found_and_may_go(place: &Sql) {
    const SAGAS: usize = 1300;
    let store = place.open().await;
    let births = (0..SAGAS)
        .map(|n| claiming(with_items(birth(id(), "order")), vec![(claim(ClaimKind::Slot, &n.to_string()), None)]));
    let births: Vec<SagaWrite> = births.collect();
    let ids: BTreeSet<SagaId> = births.iter().map(|write| write.id).collect();
    put(&store, births).await;
    let whole = birth(id(), "order");
    put(&store, vec![with_items(whole)]).await;
    let mut backdoor = Backdoor::of(&place.url()).await;
    backdoor.run("DELETE FROM sagas WHERE id IN (SELECT saga_id FROM claims)", Uuid::nil()).await;

    // Rows are lost, their journals are there: more than one page has of them, and none of it may go.
    let strays = |pages: Vec<Page>| pages.into_iter().flat_map(|page| page.strays).collect::<Vec<Stray>>();
    let found = strays(pages(&store, 100).await);
    assert_eq!(found.len(), 3 * SAGAS);
    let of = |wanted: fn(&StrayRow) -> bool| {
        let of_kind = found.iter().filter(|stray| wanted(&stray.what));
        of_kind.map(|stray| stray.saga).collect::<BTreeSet<_>>()
    };
    assert_eq!(of(|what| matches!(what, StrayRow::Journal { rows: 1 })), ids);
    assert_eq!(of(|what| matches!(what, StrayRow::Items { rows: 1 })), ids);
    assert_eq!(of(|what| matches!(what, StrayRow::Claim(claim) if claim.kind == ClaimKind::Slot)), ids);
    assert!(found.iter().all(|stray| stray.lost && !stray.may_go()));

    backdoor.run("DELETE FROM journal WHERE saga_id NOT IN (SELECT id FROM sagas)", Uuid::nil()).await;
    let found = strays(pages(&store, 100).await);
    assert_eq!(found.len(), 2 * SAGAS);
    assert!(found.iter().all(Stray::may_go));
    store.discard(&found).await.expect("discarded");
    assert_eq!(strays(pages(&store, 100).await), []);
    assert_eq!(backdoor.count("SELECT count(*) FROM items").await, 1, "of the saga that is there");
}
