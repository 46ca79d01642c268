//! Frames that lapin can read, of those that RabbitMQ sends.
//!
//! RabbitMQ passes on what lapin's parser does not survive: short strings that are no UTF-8 end the connection, and headers nested some
//! hundred levels deep the process, again and again, as the message stays in its queue. Anyone who may publish could stop sagad for good with
//! one message. So both are mended in place, before lapin sees them: a byte that is no UTF-8 becomes `?`, and what is nested too deep becomes
//! the bytes it is, which AMQP writes down in the same way.

/// Deeper than anyone nests headers, and shallow enough for the stack that lapin gives its parser.
const MAX_DEPTH: usize = 32;

/// The classes and methods with text of strangers in them, which are all that is looked at.
const CONNECTION_CLOSE: [u8; 4] = [0, 10, 0, 50];
const CHANNEL_CLOSE: [u8; 4] = [0, 20, 0, 40];
const BASIC_RETURN: [u8; 4] = [0, 60, 0, 50];
const BASIC_DELIVER: [u8; 4] = [0, 60, 0, 60];

/// What a content header has before the flags of its properties: class, weight, body size.
const BEFORE_FLAGS: usize = 12;

/// It is not what AMQP says it is: left as it came, for lapin to refuse.
struct Malformed;

/// Mends the payload of a method frame.
pub(super) fn method(payload: &mut [u8]) {
    let mut rest = Rest(payload);
    let Ok(name) = rest.take(4) else { return };
    let name = [name[0], name[1], name[2], name[3]];
    let _ = match name {
        // A number, and a text with names in it that the broker cuts off after 255 bytes, be it in the middle of a character.
        CONNECTION_CLOSE | CHANNEL_CLOSE => rest.skip(2).and_then(|()| rest.short_strings(1)),
        BASIC_RETURN => rest.skip(2).and_then(|()| rest.short_strings(3)),
        // The consumer's tag; tag and flag; exchange and routing key.
        BASIC_DELIVER => rest.short_strings(1).and_then(|()| rest.skip(9)).and_then(|()| rest.short_strings(2)),
        _ => Ok(()),
    };
}

/// Mends the payload of a content header frame.
pub(super) fn header(payload: &mut [u8]) {
    let mut rest = Rest(payload);
    let Ok(flags) = rest.skip(BEFORE_FLAGS).and_then(|()| rest.take(2)) else { return };
    let flags = u16::from_be_bytes([flags[0], flags[1]]);
    for bit in (2..16).rev().filter(|bit| flags & (1 << bit) != 0) {
        let mended = match bit {
            13 => rest.nested().and_then(|table| table.table(1)),
            // Delivery mode and priority.
            11 | 12 => rest.skip(1),
            // The timestamp.
            6 => rest.skip(8),
            _ => rest.short_strings(1),
        };
        if mended.is_err() {
            return;
        }
    }
}

/// What of a payload has not been looked at.
struct Rest<'a>(&'a mut [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Result<&'a mut [u8], Malformed> {
        let (taken, rest) = std::mem::take(&mut self.0).split_at_mut_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn skip(&mut self, count: usize) -> Result<(), Malformed> {
        self.take(count).map(drop)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.take(1).map(|byte| byte[0])
    }

    /// What is as long as the four bytes before it say.
    fn nested(&mut self) -> Result<Rest<'a>, Malformed> {
        let length = self.take(4)?;
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
        self.take(length as usize).map(Rest)
    }

    fn short_strings(&mut self, count: usize) -> Result<(), Malformed> {
        for _ in 0..count {
            let length = self.byte()?;
            make_utf8(self.take(length.into())?);
        }
        Ok(())
    }

    fn table(mut self, depth: usize) -> Result<(), Malformed> {
        while !self.0.is_empty() {
            self.short_strings(1)?;
            self.value(depth)?;
        }
        Ok(())
    }

    fn array(mut self, depth: usize) -> Result<(), Malformed> {
        while !self.0.is_empty() {
            self.value(depth)?;
        }
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<(), Malformed> {
        let kind = self.take(1)?;
        if depth == MAX_DEPTH && matches!(kind[0], b'F' | b'A') {
            // A table, an array and a string of bytes are written alike: their length, then that.
            kind[0] = b'x';
        }
        match kind[0] {
            b'F' => self.nested()?.table(depth + 1),
            b'A' => self.nested()?.array(depth + 1),
            b'S' | b'x' => self.nested().map(drop),
            b'V' => Ok(()),
            b't' | b'b' | b'B' => self.skip(1),
            b's' | b'u' | b'U' => self.skip(2),
            b'I' | b'i' | b'f' => self.skip(4),
            b'D' => self.skip(5),
            b'L' | b'l' | b'd' | b'T' => self.skip(8),
            _ => Err(Malformed),
        }
    }
}

/// Replaces every byte that is no UTF-8.
fn make_utf8(mut bytes: &mut [u8]) {
    while let Err(error) = std::str::from_utf8(bytes) {
        let wrong = error.valid_up_to();
        let end = error.error_len().map_or(bytes.len(), |length| wrong + length);
        bytes[wrong..end].fill(b'?');
        bytes = &mut bytes[end..];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mended(mut payload: Vec<u8>, mend: fn(&mut [u8])) -> Vec<u8> {
        mend(&mut payload);
        payload
    }

    #[test]
    fn utf8_stays_and_the_rest_becomes_question_marks() {
        let mend = |text: &[u8]| String::from_utf8(mended(text.to_vec(), make_utf8)).expect("UTF-8");
        assert_eq!(mend("grün".as_bytes()), "grün");
        assert_eq!(mend(b"a\xff\xfeb\xc3"), "a??b?");
        assert_eq!(mend(b"\xe2\x82"), "??");
        assert_eq!(mend(b""), "");
    }

    #[test]
    fn names_in_methods_are_mended() {
        let deliver = [&BASIC_DELIVER[..], b"\x01c", &[0; 9], b"\x02e\xff", b"\x01\xfe"].concat();
        assert_eq!(mended(deliver, method), [&BASIC_DELIVER[..], b"\x01c", &[0; 9], b"\x02e?", b"\x01?"].concat());
        let close = [&CHANNEL_CLOSE[..], &[1, 148], b"\x03no\xc3", &[0, 60, 0, 40]].concat();
        assert_eq!(mended(close, method), [&CHANNEL_CLOSE[..], &[1, 148], b"\x03no?", &[0, 60, 0, 40]].concat());
        let other = [&[0, 10, 0, 10][..], b"\x02\xff\xff"].concat();
        assert_eq!(mended(other.clone(), method), other, "nothing that a stranger wrote");
    }

    fn content_header(flags: u16, properties: &[u8]) -> Vec<u8> {
        [&[0; BEFORE_FLAGS][..], &flags.to_be_bytes(), properties].concat()
    }

    #[test]
    fn properties_are_mended_wherever_they_are() {
        // Type, headers, delivery mode, priority, message id, timestamp.
        let flags = 1 << 15 | 1 << 13 | 1 << 12 | 1 << 11 | 1 << 7 | 1 << 6 | 1 << 5;
        let table = |key: u8| [&[0, 0, 0, 4, 1, key, b't', 0xff][..]].concat();
        let properties = |key, id| [&b"\x01j"[..], &table(key), &[2, 0xff], &[1, id], &[0xff; 8], b"\x01t"].concat();
        let came = content_header(flags, &properties(0xfe, 0xfd));
        assert_eq!(mended(came, header), content_header(flags, &properties(b'?', b'?')));
    }

    /// Arrays in arrays, with a flag in the innermost.
    fn arrays(depth: usize) -> Vec<u8> {
        let mut value = vec![b't', 1];
        for _ in 0..depth {
            let length = u32::try_from(value.len()).expect("small").to_be_bytes();
            value = [&b"A"[..], &length, &value].concat();
        }
        let entry = [&b"\x01h"[..], &value].concat();
        [&u32::try_from(entry.len()).expect("small").to_be_bytes()[..], &entry].concat()
    }

    #[test]
    fn what_is_nested_too_deep_becomes_bytes() {
        let shallow = content_header(1 << 13, &arrays(MAX_DEPTH - 1));
        assert_eq!(mended(shallow.clone(), header), shallow);
        let came = content_header(1 << 13, &arrays(20_000));
        let deep = mended(came.clone(), header);
        let changed: Vec<usize> = (0..came.len()).filter(|at| came[*at] != deep[*at]).collect();
        let place = BEFORE_FLAGS + 2 + 4 + 2 + (MAX_DEPTH - 1) * 5;
        assert_eq!((changed, deep[place]), (vec![place], b'x'), "one array is bytes now, and nobody looks into them");
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_danger(payload in prop::collection::vec(any::<u8>(), 0..200), flags in any::<u16>()) {
            let length = payload.len();
            prop_assert_eq!(mended(payload.clone(), method).len(), length);
            prop_assert_eq!(mended(payload.clone(), header).len(), length);
            mended(content_header(flags, &payload), header);
            mended([&BASIC_DELIVER[..], &payload].concat(), method);
        }
    }
}
