//! The frame on `cni.sock`: a big-endian u32 length, then that many bytes of JSON.
//!
//! Owns the limit and the encoding, on bytes alone. Does not read or write a socket.

use serde::Serialize;
use std::fmt;

/// The longest body: 256 KiB. Requests carry what the plugin read and no more, so a longer one is a mistake.
pub const MAX_FRAME: usize = 256 * 1024;

/// The bytes before a body.
pub const HEADER: usize = 4;

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameError {
    /// The header announces more than [`MAX_FRAME`], or the body to send is longer.
    TooLong {
        /// The length announced, in bytes.
        length: usize,
    },
    /// The header announces nothing.
    Empty,
    /// The body is not the JSON that was expected.
    Json {
        /// The parser's own words.
        cause: String,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::TooLong { length } => {
                write!(f, "a frame of {length} bytes is over the limit of {MAX_FRAME}")
            }
            FrameError::Empty => f.write_str("a frame of no bytes"),
            FrameError::Json { cause } => write!(f, "the frame's JSON is not valid: {cause}"),
        }
    }
}

impl std::error::Error for FrameError {}

/// The frame of `body`, header included.
pub fn encode<T: Serialize>(body: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0u8; HEADER];
    serde_json::to_writer(&mut bytes, body).map_err(|e| FrameError::Json { cause: e.to_string() })?;
    let length = bytes.len() - HEADER;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong { length });
    }
    bytes[..HEADER].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(bytes)
}

/// The length of the body that a header announces, checked against the limit.
pub fn body_length(header: [u8; HEADER]) -> Result<usize, FrameError> {
    match u32::from_be_bytes(header) as usize {
        0 => Err(FrameError::Empty),
        length if length > MAX_FRAME => Err(FrameError::TooLong { length }),
        length => Ok(length),
    }
}

/// A body's JSON.
pub fn decode<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<T, FrameError> {
    serde_json::from_slice(body).map_err(|e| FrameError::Json { cause: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_round_trips() {
        let bytes = encode(&vec![1, 2, 3]).unwrap();
        let length = body_length(bytes[..4].try_into().unwrap()).unwrap();
        assert_eq!(length, bytes.len() - 4);
        assert_eq!(decode::<Vec<i32>>(&bytes[4..]).unwrap(), [1, 2, 3]);
    }

    #[test]
    fn limits_are_held_both_ways() {
        assert_eq!(body_length([0; 4]), Err(FrameError::Empty));
        assert_eq!(body_length([0, 4, 0, 1]), Err(FrameError::TooLong { length: MAX_FRAME + 1 }));
        assert!(body_length([0, 4, 0, 0]).is_ok());
        assert!(matches!(encode(&"x".repeat(MAX_FRAME)), Err(FrameError::TooLong { .. })));
    }
}
