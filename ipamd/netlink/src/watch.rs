//! Waiting for links by their MAC.
//!
//! Owns one subscription to the kernel's LINK group, and only while somebody waits: every pod makes link events, and a
//! listener that needs none of them would pay for all. Nothing is decided from an event but that it is time to look.

use eni_proto::ids::MacAddr;
use futures_util::StreamExt;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::MulticastGroup;
use tokio::sync::watch::Receiver;

/// Calls `seen` once for each wanted MAC whose link is there or appears, for as long as `wanted` has a sender. Failures
/// end the subscription: `failed` is told, and the next change of `wanted` makes another.
pub async fn links(mut wanted: Receiver<Vec<MacAddr>>, seen: impl Fn(), failed: impl Fn(String)) {
    let mut told: Vec<MacAddr> = Vec::new();
    loop {
        let mut macs = wanted.borrow_and_update().clone();
        told.retain(|mac| macs.contains(mac));
        macs.retain(|mac| !told.contains(mac));
        let found = async { if macs.is_empty() { std::future::pending().await } else { wait(&macs).await } };
        let failure = tokio::select! {
            // Cancel safe: the subscription is made anew.
            changed = wanted.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            found = found => match found {
                Ok(mac) => {
                    told.push(mac);
                    seen();
                    continue;
                }
                Err(cause) => cause,
            },
        };
        failed(failure);
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

/// Ready when a link with one of these MACs is there.
async fn wait(macs: &[MacAddr]) -> Result<MacAddr, String> {
    let (connection, handle, mut events) =
        rtnetlink::new_multicast_connection(&[MulticastGroup::Link]).map_err(|e| e.to_string())?;
    let driving = tokio::spawn(connection);
    let waiting = async {
        // What came before the subscription is in the dump, what came after it in the events.
        let mut links = handle.link().get().execute();
        while let Some(link) = links.next().await {
            if let Some(mac) = one_of(&link.map_err(|e| e.to_string())?, macs) {
                return Ok(mac);
            }
        }
        drop(handle);
        while let Some((message, _)) = events.next().await {
            if let Some(mac) = new_link(&message).and_then(|link| one_of(link, macs)) {
                return Ok(mac);
            }
        }
        Err("the kernel's link events have ended".to_owned())
    };
    let result = waiting.await;
    driving.abort();
    result
}

fn new_link(message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<&LinkMessage> {
    match &message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Some(link),
        _ => None,
    }
}

fn one_of(link: &LinkMessage, macs: &[MacAddr]) -> Option<MacAddr> {
    let address = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(address) => Some(address),
        _ => None,
    })?;
    macs.iter().copied().find(|mac| mac.0[..] == address[..])
}
