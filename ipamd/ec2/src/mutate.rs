//! EC2's changes, each one call.
//!
//! Owns the parameters of each call and what its answer means. A change is never made twice here: without an answer its
//! caller finds out what became of it. An answer that cannot be used is such a one, too.

use crate::connection::Clients;
use crate::describe::Ec2;
use crate::failure;
use crate::observation::read;
use aws_sdk_ec2::types::{NetworkInterfaceAttachmentChanges, ResourceType, Tag, TagSpecification};
use eni_proto::ids::{EniId, SubnetId};
use ipamd_core::cloud::{CloudError, CloudErrorKind, EniObservation, INSTANCE_TAG, Mutated, Mutation};
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Makes one change.
pub(crate) async fn mutate(ec2: &Ec2, mutation: Mutation) -> Result<Mutated, CloudError> {
    let call = mutation.call();
    let clients = ec2.connection.ec2().await?;
    match mutation {
        Mutation::Create { subnet, security_groups, secondary, prefixes, tags, token } => {
            let new = NewEni { subnet, security_groups, secondary, prefixes, tags, token };
            create(ec2, clients, new).await.map(Mutated::Created)
        }
        Mutation::Attach { eni, instance, device_index } => {
            let asked = clients
                .changes
                .attach_network_interface()
                .network_interface_id(eni.to_string())
                .instance_id(instance.to_string())
                .device_index(number(call, device_index)?);
            done(asked.send().await.map_err(|error| failure::of_call(call, &error)))
        }
        Mutation::Assign { eni, count, prefixes } => assign(ec2, clients, &eni, count, prefixes).await,
        Mutation::Unassign { eni, addresses, prefixes } => {
            let asked = clients
                .changes
                .unassign_private_ip_addresses()
                .network_interface_id(eni.to_string())
                .set_private_ip_addresses(texts(&addresses))
                .set_ipv4_prefixes(texts(&prefixes));
            // Whatever comes of it: if they are gone, an assign may bring them back.
            ec2.told.unassigned(&eni, &addresses, &prefixes);
            done(asked.send().await.map_err(|error| failure::of_call(call, &error)))
        }
        Mutation::Detach { eni, attachment } => {
            let attachment = match attachment {
                Some(attachment) => attachment,
                None => attachment_of(ec2, call, &eni).await?,
            };
            let asked = clients.changes.detach_network_interface().attachment_id(attachment);
            done(asked.send().await.map_err(|error| failure::of_call(call, &error)))
        }
        Mutation::Delete { eni } => {
            let asked = clients.changes.delete_network_interface().network_interface_id(eni.to_string());
            asked.send().await.map_err(|error| failure::of_call(call, &error))?;
            ec2.told.deleted(&eni);
            Ok(Mutated::Done)
        }
        Mutation::SetSecurityGroups { eni, security_groups } => {
            let asked = clients
                .changes
                .modify_network_interface_attribute()
                .network_interface_id(eni.to_string())
                .set_groups(Some(security_groups));
            done(asked.send().await.map_err(|error| failure::of_call(call, &error)))
        }
        Mutation::SetDeleteOnTermination { eni, attachment } => {
            let change = NetworkInterfaceAttachmentChanges::builder()
                .attachment_id(attachment)
                .delete_on_termination(true)
                .build();
            let asked = clients
                .changes
                .modify_network_interface_attribute()
                .network_interface_id(eni.to_string())
                .attachment(change);
            done(asked.send().await.map_err(|error| failure::of_call(call, &error)))
        }
    }
}

/// What a create asks for.
struct NewEni {
    subnet: SubnetId,
    security_groups: Vec<String>,
    secondary: u32,
    prefixes: u32,
    tags: BTreeMap<String, String>,
    token: String,
}

async fn create(ec2: &Ec2, clients: &Clients, new: NewEni) -> Result<EniObservation, CloudError> {
    const CALL: &str = "CreateNetworkInterface";
    // First what its answer needs: a created ENI must not be lost to a failed look at its subnet.
    ec2.subnets.cidrs(&ec2.connection, &BTreeSet::from([new.subnet.clone()])).await?;
    let description = match new.tags.get(INSTANCE_TAG) {
        Some(instance) => format!("eni-cni {instance}"),
        None => "eni-cni".to_owned(),
    };
    let mut tags = TagSpecification::builder().resource_type(ResourceType::NetworkInterface);
    for (key, value) in &new.tags {
        tags = tags.tags(Tag::builder().key(key).value(value).build());
    }
    let mut asked = clients
        .changes
        .create_network_interface()
        .subnet_id(new.subnet.to_string())
        .description(description)
        .client_token(new.token)
        .set_groups(Some(new.security_groups).filter(|groups| !groups.is_empty()))
        .set_tag_specifications(Some(vec![tags.build()]).filter(|_| !new.tags.is_empty()));
    if new.secondary > 0 {
        asked = asked.secondary_private_ip_address_count(number(CALL, new.secondary)?);
    }
    if new.prefixes > 0 {
        asked = asked.ipv4_prefix_count(number(CALL, new.prefixes)?);
    }
    let answer = asked.send().await.map_err(|error| failure::of_call(CALL, &error))?;
    let Some(eni) = answer.network_interface else {
        return Err(failure::unreadable(CALL, "it names no network interface"));
    };
    let created = ec2.observations(CALL, std::slice::from_ref(&eni)).await?.pop();
    let created = created.ok_or_else(|| failure::unreadable(CALL, "it names no network interface"))?;
    ec2.told.seen(&created);
    Ok(created)
}

async fn assign(
    ec2: &Ec2,
    clients: &Clients,
    eni: &EniId,
    count: u32,
    prefixes: u32,
) -> Result<Mutated, CloudError> {
    const CALL: &str = "AssignPrivateIpAddresses";
    let mut asked = clients.changes.assign_private_ip_addresses().network_interface_id(eni.to_string());
    if count > 0 {
        asked = asked.secondary_private_ip_address_count(number(CALL, count)?);
    }
    if prefixes > 0 {
        asked = asked.ipv4_prefix_count(number(CALL, prefixes)?);
    }
    let answer = asked.send().await.map_err(|error| failure::of_call(CALL, &error))?;
    let unreadable = |cause| failure::unreadable(CALL, cause);
    // More new ones than were asked for are not to be told from those that the ENI had before, its own address among
    // them: the next look tells.
    let too_many = |new: usize, asked: u32| {
        let more = usize::try_from(asked).is_ok_and(|asked| new > asked);
        more.then(|| unreadable(format!("it names {new} new ones where {asked} were asked for")))
    };
    if prefixes > 0 {
        let told = answer.assigned_ipv4_prefixes().iter();
        let told: Result<Vec<Ipv4Net>, String> =
            told.map(|prefix| read("ipv4Prefix", prefix.ipv4_prefix())).collect();
        let new = ec2.told.new_prefixes(eni, told.map_err(unreadable)?);
        return too_many(new.len(), prefixes).map_or(Ok(Mutated::AssignedPrefixes(new)), Err);
    }
    let told = answer.assigned_private_ip_addresses().iter();
    let told: Result<Vec<Ipv4Addr>, String> =
        told.map(|address| read("privateIpAddress", address.private_ip_address())).collect();
    let new = ec2.told.new_addresses(eni, told.map_err(unreadable)?);
    too_many(new.len(), count).map_or(Ok(Mutated::Assigned(new)), Err)
}

/// EC2's id of the ENI's attachment, asked for where no look has told it.
async fn attachment_of(ec2: &Ec2, call: &str, eni: &EniId) -> Result<String, CloudError> {
    let seen = ec2.eni(eni).await?;
    let Some(at) = seen.attachment else {
        return Err(CloudError::new(CloudErrorKind::InUse, call, format!("{eni} is attached to nothing")));
    };
    at.id.ok_or_else(|| failure::unreadable(call, format!("{eni}'s attachment has no id")))
}

fn done<T>(answer: Result<T, CloudError>) -> Result<Mutated, CloudError> {
    answer.map(|_| Mutated::Done)
}

fn number(call: &str, number: u32) -> Result<i32, CloudError> {
    let out_of_range = |_| CloudError::new(CloudErrorKind::Other, call, format!("{number} is out of range"));
    i32::try_from(number).map_err(out_of_range)
}

/// A list that is left out of the request when it is empty.
fn texts<T: ToString>(of: &[T]) -> Option<Vec<String>> {
    (!of.is_empty()).then(|| of.iter().map(ToString::to_string).collect())
}
