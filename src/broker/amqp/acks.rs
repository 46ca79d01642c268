//! Which deliveries of one channel are finished, and with how few acknowledgements the broker can be told.

use std::collections::BTreeMap;

/// Delivery tags of a channel count from 1. They are finished in any order, and most of the time nearly in order: all up to the first
/// that is not are acknowledged at once.
#[derive(Debug, Default)]
pub(super) struct Acks {
    /// All tags up to this one are finished.
    through: u64,
    /// The highest of them that the broker has not been told of.
    untold: Option<u64>,
    /// Finished tags beyond, and whether the broker has been told.
    beyond: BTreeMap<u64, bool>,
}

impl Acks {
    /// `tag` is finished.
    pub(super) fn finish(&mut self, tag: u64) {
        self.beyond.insert(tag, false);
        while let Some(told) = self.beyond.remove(&(self.through + 1)) {
            self.through += 1;
            if !told {
                self.untold = Some(self.through);
            }
        }
    }

    /// The tag to acknowledge with all before it. Never one that was acknowledged already: the broker would close the channel.
    pub(super) fn take_bulk(&mut self) -> Option<u64> {
        self.untold.take()
    }

    /// Whether there are finished tags that wait for one before them.
    pub(super) fn has_gaps(&self) -> bool {
        self.beyond.values().any(|told| !told)
    }

    /// Those, to be acknowledged one by one.
    pub(super) fn take_singles(&mut self) -> Vec<u64> {
        let untold = self.beyond.iter_mut().filter(|(_, told)| !**told);
        untold
            .map(|(tag, told)| {
                *told = true;
                *tag
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_finished_beginning_goes_in_bulk_and_the_rest_waits() {
        let mut acks = Acks::default();
        for tag in [1, 2, 4, 5] {
            acks.finish(tag);
        }
        assert_eq!(acks.take_bulk(), Some(2));
        assert_eq!(acks.take_bulk(), None);
        assert!(acks.has_gaps());
        acks.finish(3);
        assert_eq!(acks.take_bulk(), Some(5));
        assert!(!acks.has_gaps());
    }

    #[test]
    fn what_was_told_singly_is_not_told_again() {
        let mut acks = Acks::default();
        acks.finish(2);
        acks.finish(3);
        assert_eq!(acks.take_singles(), [2, 3]);
        assert!(!acks.has_gaps());
        acks.finish(1);
        assert_eq!(acks.take_bulk(), Some(1), "3 is told already, the broker knows it no more");
    }

    proptest! {
        /// The broker's side, as RabbitMQ does it: a tag it does not know, or knows no more, closes the channel.
        #[test]
        fn the_broker_hears_of_every_tag_once(order in Just((1..=40u64).collect::<Vec<_>>()).prop_shuffle(), choices in prop::collection::vec(0..3u8, 40)) {
            let mut outstanding: BTreeSet<u64> = (1..=40).collect();
            let mut finished = BTreeSet::new();
            let mut acks = Acks::default();
            for (tag, choice) in order.into_iter().zip(choices) {
                acks.finish(tag);
                finished.insert(tag);
                if choice > 0 && let Some(bulk) = acks.take_bulk() {
                    prop_assert!(outstanding.contains(&bulk));
                    prop_assert!(outstanding.range(..=bulk).all(|tag| finished.contains(tag)));
                    outstanding.retain(|tag| *tag > bulk);
                }
                if choice > 1 {
                    for single in acks.take_singles() {
                        prop_assert!(finished.contains(&single) && outstanding.remove(&single));
                    }
                }
            }
            if let Some(bulk) = acks.take_bulk() {
                outstanding.retain(|tag| *tag > bulk);
            }
            prop_assert!(outstanding.is_empty());
        }
    }
}
