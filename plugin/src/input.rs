//! The network configuration's bytes, from stdin: bounded in size and in time.
//!
//! Owns both bounds. Does not own what the bytes mean.

use eni_proto::client::boottime;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::read;
use std::fmt;
use std::os::fd::AsFd;
use std::time::Duration;

/// The longest configuration: 4 MiB. A pod's annotations alone may be a megabyte (kubectl's last-applied blob).
pub(crate) const INPUT_MAX: usize = 4 * 1024 * 1024;

/// Room for most configurations at once; doubled for the others. A page: more would be zeroed, page by page, for nothing.
const CHUNK: usize = 4 * 1024;

/// Why there is no configuration.
#[derive(Debug)]
pub(crate) enum InputError {
    /// More than [`INPUT_MAX`] bytes.
    TooLong,
    /// The writer did not close in time.
    Open { waited: Duration },
    /// The read failed.
    Read(Errno),
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InputError::TooLong => {
                write!(f, "the network configuration on stdin is over the limit of {INPUT_MAX} bytes")
            }
            InputError::Open { waited } => {
                write!(f, "the network configuration on stdin did not end within {} ms", waited.as_millis())
            }
            InputError::Read(errno) => {
                write!(f, "reading the network configuration from stdin failed: {errno}")
            }
        }
    }
}

impl std::error::Error for InputError {}

/// Reads `source` to its end, for at most `patience`.
pub(crate) fn read_all(source: impl AsFd, patience: Duration) -> Result<Vec<u8>, InputError> {
    let deadline = boottime() + patience;
    let mut bytes = Vec::new();
    let mut length = 0;
    loop {
        let left = deadline.saturating_sub(boottime());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(source.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(InputError::Open { waited: patience }),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(InputError::Read(errno)),
        }
        // Only when it is full: the end of most configurations is read into what is left of the first chunk.
        if length == bytes.len() {
            bytes.resize(length + length.max(CHUNK), 0);
        }
        match read(source.as_fd(), &mut bytes[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => return Err(InputError::Read(errno)),
        }
        if length > INPUT_MAX {
            return Err(InputError::TooLong);
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::thread;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn all_of_it_is_read_up_to_the_limit() {
        for (length, fits) in [(0, true), (CHUNK + 1, true), (INPUT_MAX, true), (INPUT_MAX + 1, false)] {
            let (reader, mut writer) = std::io::pipe().unwrap();
            let writing = thread::spawn(move || writer.write_all(&vec![b'x'; length]));
            match read_all(&reader, LONG) {
                Ok(bytes) => assert!(fits && bytes.len() == length, "{length}"),
                Err(error) => assert!(!fits && matches!(error, InputError::TooLong), "{length}: {error}"),
            }
            drop(reader);
            let _broken_pipe_when_refused = writing.join().unwrap();
        }
    }

    #[test]
    fn a_writer_that_never_closes_is_not_waited_for() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"{}").unwrap();
        let error = read_all(&reader, Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, InputError::Open { .. }), "{error}");
    }
}
