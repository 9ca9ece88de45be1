//! The journal of calls.
//!
//! Owns its entries, the counts by call and the numbering of requests. Entries are bounded, counts are not.

use super::Extra;
use super::refusal::{Refusal, request_id};
use ipamd_core::cloud::{CloudError, Mutation};
use ipamd_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;

/// The most calls that the journal keeps: minutes of the busiest test.
const ENTRIES: usize = 10_000;

/// One call, as it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// When, in milliseconds since boot.
    pub at_ms: u64,
    /// The call, as EC2 names it.
    pub call: String,
    /// Its parameters, in words.
    pub parameters: String,
    /// `ok`, or EC2's error code. `ok` is what took effect.
    pub outcome: String,
    /// The error code that was answered although the call took effect.
    #[serde(default)]
    pub lost: Option<String>,
}

/// The journal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Journal {
    entries: VecDeque<JournalEntry>,
    counts: BTreeMap<String, u64>,
    requests: u64,
}

impl Journal {
    pub(super) fn entries(&self) -> impl Iterator<Item = &JournalEntry> {
        self.entries.iter()
    }

    pub(super) fn counts(&self) -> &BTreeMap<String, u64> {
        &self.counts
    }

    /// The id of the last request.
    pub(super) fn last_request_id(&self) -> String {
        request_id(self.requests)
    }

    /// Writes a call down; `lost` is the error that is answered instead of what it did. Makes the answer of it.
    pub(super) fn record<T>(
        &mut self,
        call: &str,
        parameters: String,
        result: Result<T, Refusal>,
        lost: Option<Refusal>,
        now: Timestamp,
    ) -> Result<T, CloudError> {
        self.requests += 1;
        *self.counts.entry(call.to_owned()).or_default() += 1;
        let outcome = result.as_ref().err().map_or_else(|| "ok".to_owned(), |r| r.code.clone());
        let lost = lost.filter(|_| result.is_ok());
        self.entries.push_back(JournalEntry {
            at_ms: now.as_millis(),
            call: call.to_owned(),
            parameters,
            outcome,
            lost: lost.as_ref().map(|r| r.code.clone()),
        });
        if self.entries.len() > ENTRIES {
            self.entries.pop_front();
        }
        let request = self.requests;
        match lost {
            Some(refusal) => Err(refusal.into_error(call, request)),
            None => result.map_err(|refusal| refusal.into_error(call, request)),
        }
    }
}

/// The parameters of a change, in EC2's names.
pub(super) fn parameters(mutation: &Mutation, extra: &Extra) -> String {
    let mut text = own_parameters(mutation);
    if !extra.description.is_empty() {
        text += &format!(" Description={:?}", extra.description);
    }
    if extra.force {
        text += " Force=true";
    }
    text
}

fn own_parameters(mutation: &Mutation) -> String {
    fn counts(addresses: u32, prefixes: u32) -> String {
        match (addresses, prefixes) {
            (0, 1..) => format!("Ipv4PrefixCount={prefixes}"),
            (_, 0) => format!("SecondaryPrivateIpAddressCount={addresses}"),
            _ => format!("SecondaryPrivateIpAddressCount={addresses} Ipv4PrefixCount={prefixes}"),
        }
    }
    fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
        items.into_iter().map(|i| i.to_string()).collect::<Vec<_>>().join(" ")
    }
    match mutation {
        Mutation::Create { subnet, security_groups, secondary, prefixes, tags, token } => format!(
            "SubnetId={subnet} {} SecurityGroupId=[{}] Tag=[{}] ClientToken={token}",
            counts(*secondary, *prefixes),
            list(security_groups),
            list(tags.iter().map(|(key, value)| format!("{key}={value}"))),
        ),
        Mutation::Attach { eni, instance, device_index } => {
            format!("NetworkInterfaceId={eni} InstanceId={instance} DeviceIndex={device_index}")
        }
        Mutation::Assign { eni, count, prefixes } => {
            format!("NetworkInterfaceId={eni} {}", counts(*count, *prefixes))
        }
        Mutation::Unassign { eni, addresses, prefixes } => {
            let mut text = format!("NetworkInterfaceId={eni}");
            if !addresses.is_empty() || prefixes.is_empty() {
                text += &format!(" PrivateIpAddress=[{}]", list(addresses));
            }
            if !prefixes.is_empty() {
                text += &format!(" Ipv4Prefix=[{}]", list(prefixes));
            }
            text
        }
        Mutation::Detach { eni, attachment: Some(attachment) } => {
            format!("NetworkInterfaceId={eni} AttachmentId={attachment}")
        }
        Mutation::Detach { eni, .. } | Mutation::Delete { eni } => format!("NetworkInterfaceId={eni}"),
        Mutation::SetSecurityGroups { eni, security_groups } => {
            format!("NetworkInterfaceId={eni} SecurityGroupId=[{}]", list(security_groups))
        }
        Mutation::SetDeleteOnTermination { eni, attachment } => {
            format!(
                "NetworkInterfaceId={eni} Attachment.AttachmentId={attachment} Attachment.DeleteOnTermination=true"
            )
        }
    }
}
