//! Correlation ids: which sending of which command, signed, so that a participant can answer only what it was sent.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use uuid::Uuid;

use crate::core::id::{Action, SagaId, Spot, Ticket};

/// Signs and reads correlation ids with the store's secret.
#[derive(Clone)]
pub struct Signer {
    mac: Hmac<Sha256>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

/// Bytes of the hash that are kept: 2^64 guesses for a forgery are more than a broker carries.
const KEPT: usize = 16;

impl Signer {
    /// A signer with a secret.
    pub fn new(secret: &[u8; 32]) -> Signer {
        let Ok(mac) = Hmac::new_from_slice(secret) else { unreachable!("HMAC takes keys of any length") };
        Signer { mac }
    }

    /// `SAGA.STEP.e1.HASH` for the first attempt of an execute, `c1` for a compensation, `p1` for a probe; `STEP-ITEM` for an
    /// element.
    pub fn sign(&self, ticket: Ticket) -> String {
        let mut text = plain(ticket);
        let hash = self.hash(&text);
        text.push('.');
        hash.iter().for_each(|byte| push_hex(&mut text, *byte));
        text
    }

    /// Reads a correlation id; `None` unless this signer, or one with the same secret, made it.
    pub fn read(&self, id: &str) -> Option<Ticket> {
        let (text, signature) = id.rsplit_once('.')?;
        let mut mac = self.mac.clone();
        mac.update(text.as_bytes());
        mac.verify_truncated_left(&unhex(signature)?).ok()?;
        let mut parts = text.split('.');
        let saga = SagaId(Uuid::try_parse(parts.next()?).ok()?);
        let unit = parts.next()?;
        let (step, item) = match unit.split_once('-') {
            None => (unit, None),
            Some((step, item)) => (step, Some(item.parse().ok()?)),
        };
        let spot = Spot { step: step.parse().ok()?, item };
        let (action, attempt) = parts.next()?.split_at_checked(1)?;
        let action = match action {
            "e" => Action::Execute,
            "c" => Action::Compensate,
            "p" => Action::Probe,
            _ => return None,
        };
        Some(Ticket { saga, spot, action, attempt: attempt.parse().ok()? })
    }

    /// A span id for the sending: the first eight bytes of its hash.
    pub fn span(&self, ticket: Ticket) -> String {
        let mut span = String::with_capacity(16);
        self.hash(&plain(ticket))[..8].iter().for_each(|byte| push_hex(&mut span, *byte));
        span
    }

    fn hash(&self, text: &str) -> [u8; KEPT] {
        let mut mac = self.mac.clone();
        mac.update(text.as_bytes());
        let mut kept = [0; KEPT];
        kept.copy_from_slice(&mac.finalize().into_bytes()[..KEPT]);
        kept
    }
}

fn plain(ticket: Ticket) -> String {
    let action = match ticket.action {
        Action::Execute => 'e',
        Action::Compensate => 'c',
        Action::Probe => 'p',
    };
    let (saga, Spot { step, item }, attempt) = (ticket.saga.0.simple(), ticket.spot, ticket.attempt);
    match item {
        None => format!("{saga}.{step}.{action}{attempt}"),
        Some(item) => format!("{saga}.{step}-{item}.{action}{attempt}"),
    }
}

fn push_hex(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    text.push(char::from(DIGITS[usize::from(byte >> 4)]));
    text.push(char::from(DIGITS[usize::from(byte & 15)]));
}

fn unhex(text: &str) -> Option<[u8; KEPT]> {
    // Only the form that is written: one id, one spelling.
    if text.len() != 2 * KEPT || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; KEPT];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reads_what_it_signed_and_nothing_else(saga: u128, step in 0usize..1000, item: Option<u32>, attempt: u32, undo: bool, at in 0usize..80, to: char) {
            let signer = Signer::new(&[7; 32]);
            let action = if undo { Action::Compensate } else { Action::Execute };
            let ticket = Ticket { saga: SagaId(Uuid::from_u128(saga)), spot: Spot { step, item }, action, attempt };
            let id = signer.sign(ticket);
            prop_assert!(id.len() <= 255, "AMQP's short strings have 255 bytes at the most");
            prop_assert_eq!(signer.read(&id), Some(ticket));
            prop_assert_eq!(Signer::new(&[8; 32]).read(&id), None);
            let mut forged: Vec<char> = id.chars().collect();
            let at = at % forged.len();
            if forged[at] != to {
                forged[at] = to;
                prop_assert_eq!(signer.read(&forged.into_iter().collect::<String>()), None);
            }
        }

        #[test]
        fn never_panics_on_what_others_made(text: String) {
            prop_assert_eq!(Signer::new(&[7; 32]).read(&text), None);
        }
    }
}
