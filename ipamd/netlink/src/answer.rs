//! What the kernel answers: messages, attributes, and the refusal in an error.
//!
//! Owns reading them out of bytes. A length that lies ends the walk; nothing here panics on what it reads. Does not
//! send or wait.

use nix::errno::Errno;

const NLMSG_HEADER: usize = 16;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// What the kernel answered to a message that it refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}", errno_name(*errno), if text.is_empty() { String::new() } else { format!(" ({text})") })]
pub(crate) struct Refusal {
    /// The message's place in its batch.
    pub(crate) index: usize,
    /// errno, positive.
    pub(crate) errno: i32,
    /// The kernel's extended text; empty when it gave none.
    pub(crate) text: String,
}

/// errno's name.
pub(crate) fn errno_name(errno: i32) -> String {
    format!("{:?}", Errno::from_raw(errno))
}

/// A netlink header, as far as it is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// The port of who asked for it; of a notification, who made the change, or 0.
    pub(crate) port: u32,
}

/// The messages in what one read returned.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..NLMSG_HEADER)?;
        let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
        let body = bytes.get(NLMSG_HEADER..length)?;
        let read = Header {
            kind: u16::from_ne_bytes(header[4..6].try_into().ok()?),
            flags: u16::from_ne_bytes(header[6..8].try_into().ok()?),
            sequence: u32::from_ne_bytes(header[8..12].try_into().ok()?),
            port: u32::from_ne_bytes(header[12..16].try_into().ok()?),
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((read, body))
    })
}

/// The attributes in a message's body: kind (without its flags) and value.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const TYPE_MASK: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & TYPE_MASK, value))
    })
}

/// The error in an NLMSG_ERROR or NLMSG_DONE; none for an acknowledgement.
pub(crate) fn refusal(header: Header, body: &[u8], index: usize) -> Option<Refusal> {
    let errno = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?).checked_neg()?;
    if errno <= 0 {
        return None;
    }
    // NLMSG_DONE has its attributes at once; NLMSG_ERROR the request's header first, and its body unless capped.
    let at = if header.kind == NLMSG_DONE {
        4
    } else if header.flags & NLM_F_CAPPED != 0 {
        4 + NLMSG_HEADER
    } else {
        let length = body.get(4..8).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes) as usize;
        4 + length.next_multiple_of(4)
    };
    let told = header.flags & NLM_F_ACK_TLVS != 0;
    let text = body
        .get(at..)
        .filter(|_| told)
        .and_then(|rest| attributes(rest).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG).map(|(_, text)| text));
    let text = text.map(|t| String::from_utf8_lossy(t).trim_end_matches('\0').to_owned()).unwrap_or_default();
    Some(Refusal { index, errno, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(body);
        bytes
    }

    fn error_body(errno: i32, text: &str) -> Vec<u8> {
        let mut body = (-errno).to_ne_bytes().to_vec();
        body.extend_from_slice(&[0; 16]);
        body.extend_from_slice(&(4 + text.len() as u16 + 1).to_ne_bytes());
        body.extend_from_slice(&NLMSGERR_ATTR_MSG.to_ne_bytes());
        body.extend_from_slice(text.as_bytes());
        body.push(0);
        body
    }

    #[test]
    fn the_extended_text_is_told() {
        let bytes = message(NLMSG_ERROR, NLM_F_CAPPED | NLM_F_ACK_TLVS, 9, &error_body(22, "bad prefsrc"));
        let (header, body) = messages(&bytes).next().unwrap();
        let refusal = refusal(header, body, 3).unwrap();
        assert_eq!((refusal.index, refusal.errno), (3, 22));
        assert_eq!(refusal.to_string(), "EINVAL (bad prefsrc)");
    }

    #[test]
    fn an_acknowledgement_is_no_refusal() {
        let bytes = message(NLMSG_ERROR, NLM_F_CAPPED, 9, &[0; 20]);
        let (header, body) = messages(&bytes).next().unwrap();
        assert_eq!(refusal(header, body, 0), None);
    }

    #[test]
    fn cut_and_lying_lengths_end_the_walk() {
        let whole = message(16, 0, 1, &[1, 2, 3, 4]);
        let mut two = whole.clone();
        two.extend_from_slice(&whole);
        assert_eq!(messages(&two).count(), 2);
        assert_eq!(messages(&two[..whole.len() + 10]).count(), 1);
        let mut long = whole.clone();
        long[0] = 200;
        assert_eq!(messages(&long).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[8, 0, 1, 0, 9, 9, 9, 9, 2]).count(), 1);
    }
}
