//! Asking a running ipamd for its place.
//!
//! Owns the request of `ipamd --take-over`, made again while the lock is waited for: the first one may not have had its
//! socket yet. Does not wait for the first one's end: the lock does.

use eni_proto::client;
use eni_proto::reply::Outcome;
use eni_proto::request::{Call, HandOver, Request};
use std::path::Path;
use std::time::Duration;
use tracing::{info, warn};

/// How long the first one may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Between two requests.
const AGAIN: Duration = Duration::from_secs(1);

/// Asks whoever has the place until it is given.
#[derive(Debug, Default)]
pub struct TakeOver {
    asked: Option<Duration>,
    given: bool,
}

impl TakeOver {
    /// Asks, unless it was asked a moment ago or the place is given already. Whether it is needed at all the lock says.
    pub fn ask(&mut self, socket: &Path) {
        let now = client::boottime();
        if self.given || self.asked.is_some_and(|asked| now < asked + AGAIN) {
            return;
        }
        self.asked = Some(now);
        let ask = HandOver { pid: std::process::id(), version: env!("CARGO_PKG_VERSION").to_owned() };
        match client::call(socket, &Request::new(Call::HandOver(ask)), None, now + ANSWER).map(|r| r.outcome)
        {
            Ok(Outcome::Done) => {
                info!("the running ipamd hands over");
                self.given = true;
            }
            Ok(Outcome::Failed(error)) => {
                warn!(%error, "the running ipamd does not hand over: it is asked again");
            }
            Ok(_) => warn!("the running ipamd does not know how to hand over: it is asked again"),
            Err(error) => {
                info!(%error, "no running ipamd answers: where one holds the lock it is asked again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eni_proto::error::{Code, WireError};
    use eni_proto::frame;
    use eni_proto::reply::Reply;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    /// Answers one call by this.
    fn answer(listener: &UnixListener, outcome: Outcome) {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let length = stream.read(&mut request).unwrap();
        assert!(String::from_utf8_lossy(&request[..length]).contains("hand_over"));
        stream.write_all(&frame::encode(&Reply::new(outcome)).unwrap()).unwrap();
    }

    #[test]
    fn the_place_is_asked_for_until_it_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("cni.sock");
        let mut place = TakeOver::default();
        place.ask(&socket);
        assert!(!place.given, "the running one has no socket yet");
        let listener = UnixListener::bind(&socket).unwrap();
        let running = std::thread::spawn(move || {
            answer(&listener, Outcome::Failed(Box::new(WireError::new(Code::Decode, "what is hand_over?"))));
            answer(&listener, Outcome::Done);
            listener
        });
        while !place.given {
            place.ask(&socket);
            std::thread::sleep(Duration::from_millis(10));
        }
        let listener = running.join().unwrap();
        place.asked = None;
        place.ask(&socket);
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "and no more after that");
    }
}
