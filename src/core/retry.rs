//! Capped exponential back-off with jitter that is derived, not drawn: the same attempt always waits as long.

use std::time::Duration;

use crate::core::definition::Retry;
use crate::core::id::{Spot, Ticket, mix};

/// How long to wait after the failure of `tries` attempts, `tries` ≥ 1. `ticket` seeds the jitter, so that sagas that failed
/// together do not come back together.
pub fn backoff(retry: &Retry, tries: u32, ticket: Ticket) -> Duration {
    let exponent = i32::try_from(tries.saturating_sub(1)).unwrap_or(i32::MAX);
    let wait = (retry.initial.as_secs_f64() * retry.factor.powi(exponent)).min(retry.max.as_secs_f64());
    let varied = wait * (1.0 + retry.jitter * (2.0 * fraction(ticket) - 1.0));
    // Milliseconds: finer than any timer here is exact.
    Duration::from_millis((varied.max(0.0) * 1000.0).round() as u64)
}

/// A number in [0, 1) from a ticket.
fn fraction(ticket: Ticket) -> f64 {
    let (high, low) = ticket.saga.0.as_u64_pair();
    let Spot { step, item } = ticket.spot;
    let unit = ((step as u64) << 40) ^ ((ticket.action as u64) << 38) ^ item.map_or(0, |item| u64::from(item) + 1);
    (mix(high ^ low.rotate_left(32) ^ mix(unit ^ (u64::from(ticket.attempt) << 44))) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::core::id::{Action, SagaId};

    fn ticket(saga: u128, attempt: u32) -> Ticket {
        Ticket { saga: SagaId(Uuid::from_u128(saga)), spot: 1.into(), action: Action::Execute, attempt }
    }

    #[test]
    fn doubles_up_to_the_cap() {
        let second = Duration::from_secs(1);
        let retry = Retry { attempts: 9, initial: second, factor: 2.0, max: 5 * second, jitter: 0.0 };
        let waits: Vec<u64> = (1..=5).map(|n| backoff(&retry, n, ticket(7, n)).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
    }

    #[test]
    fn the_same_attempt_always_waits_as_long() {
        let first = ticket(7, 1);
        let element = Spot { step: 19, item: Some(3) };
        let tickets = [
            first,
            ticket(8, 1),
            Ticket { saga: SagaId(Uuid::from_u128(7 << 64)), ..first },
            ticket(0x0123_4567_89ab_7cde_8f01_2345_6789_abcd, 1),
            Ticket { spot: 2.into(), ..first },
            Ticket { spot: element, attempt: 5, ..first },
            Ticket { spot: element, attempt: 5, action: Action::Compensate, ..first },
        ];
        let day = Duration::from_secs(24 * 3600);
        let retry = Retry { attempts: 9, initial: day, factor: 1.0, max: day, jitter: 1.0 };
        let waits = tickets.map(|it| backoff(&retry, 1, it).as_millis());
        assert_eq!(waits, [155_823_068, 52_152_521, 65_661_851, 56_022_926, 64_565_019, 19_775_171, 27_047_136]);
    }

    proptest! {
        #[test]
        fn stays_within_the_jitter(saga: u128, tries in 1u32..=u32::MAX, jitter in 0.0f64..=1.0) {
            let second = Duration::from_secs(1);
            let retry = Retry { attempts: 9, initial: second, factor: 2.0, max: 60 * second, jitter };
            let wait = backoff(&retry, tries, ticket(saga, tries)).as_secs_f64();
            let unvaried = 2f64.powi(i32::try_from(tries - 1).unwrap_or(i32::MAX)).min(60.0);
            prop_assert!((wait - unvaried).abs() <= unvaried * jitter + 0.001);
        }
    }
}
