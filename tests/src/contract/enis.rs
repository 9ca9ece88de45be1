//! Network interfaces: created, described, attached, detached, deleted, changed.
//!
//! Owns those checks.

use super::{Check, Contract, Outcome, holds, same};
use eni_proto::ids::EniId;
use ipamd_core::cloud::{CloudErrorKind, EniAttachmentStatus, EniScope, INSTANCE_TAG, Mutation};

const CREATE: &str = "API_CreateNetworkInterface";
const ATTACH: &str = "API_AttachNetworkInterface";
const IDEMPOTENCY: &str = "EC2 developer guide, Ensuring idempotency in Amazon EC2 API requests";
const ERRORS: &str = "EC2 API reference, Error codes";

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "a new ENI has what was asked for and is attached to nothing",
        source: CREATE,
        needs: |_| true,
        run: |c| Box::pin(created_as_asked(c)),
    },
    Check {
        name: "an ENI is found by its tag, and by its instance once it is attached",
        source: "API_DescribeNetworkInterfaces, Filters",
        needs: |_| true,
        run: |c| Box::pin(found_by_filters(c)),
    },
    Check {
        name: "a create that is repeated with its token makes nothing",
        source: IDEMPOTENCY,
        needs: |c| c.can.tokens,
        run: |c| Box::pin(repeated_create(c)),
    },
    Check {
        name: "a token with other parameters is refused",
        source: IDEMPOTENCY,
        needs: |c| c.can.tokens,
        run: |c| Box::pin(token_mismatch(c)),
    },
    Check {
        name: "what does not exist is not found",
        source: ERRORS,
        needs: |c| c.can.not_found,
        run: |c| Box::pin(not_found(c)),
    },
    Check {
        name: "an attached ENI tells its attachment",
        source: ATTACH,
        needs: |_| true,
        run: |c| Box::pin(attachment_is_told(c)),
    },
    Check {
        name: "what is attached can be neither attached nor deleted, and its index is taken",
        source: ERRORS,
        needs: |c| c.can.in_use,
        run: |c| Box::pin(in_use(c)),
    },
    Check {
        name: "an instance carries as many ENIs as its type",
        source: "EC2 user guide, Maximum IP addresses per network interface",
        needs: |c| c.can.limits,
        run: |c| Box::pin(eni_limit(c)),
    },
    Check {
        name: "a detached ENI is available and can be deleted once",
        source: "API_DetachNetworkInterface, API_DeleteNetworkInterface",
        needs: |_| true,
        run: |c| Box::pin(detached_and_deleted(c)),
    },
    Check {
        name: "security groups are replaced as a whole",
        source: "API_ModifyNetworkInterfaceAttribute",
        needs: |c| c.site.security_groups.len() > 1,
        run: |c| Box::pin(groups_are_replaced(c)),
    },
    Check {
        name: "delete-on-termination is off until it is set",
        source: "API_ModifyNetworkInterfaceAttribute",
        needs: |c| c.can.termination,
        run: |c| Box::pin(termination_is_set(c)),
    },
    Check {
        name: "the limits of a type are told, and of no type none",
        source: "API_DescribeInstanceTypes",
        needs: |_| true,
        run: |c| Box::pin(limits_are_told(c)),
    },
    Check {
        name: "many ENIs are all described",
        source: "EC2 developer guide, Pagination in Amazon EC2",
        needs: |_| true,
        run: |c| Box::pin(all_are_described(c)),
    },
    Check {
        name: "the metadata tells the attached ENI",
        source: "EC2 user guide, Instance metadata categories",
        needs: |c| c.metadata.is_some(),
        run: |c| Box::pin(metadata_tells(c)),
    },
];

async fn created_as_asked(c: &Contract<'_>) -> Outcome {
    let eni = c.created(2, 0).await?;
    same("secondary addresses", &eni.secondary.len(), &2)?;
    holds(eni.primary.is_some_and(|own| !eni.secondary.contains(&own)), || format!("its own: {eni:?}"))?;
    holds(eni.all_addresses().all(|a| eni.subnet_cidr.contains(&a)), || format!("outside: {eni:?}"))?;
    same("attachment", &eni.attachment, &None)?;
    same("subnet", &eni.subnet, &c.site.subnet)?;
    same("groups", &eni.security_groups, &c.site.security_groups[..1].to_vec())?;
    same("tag", &eni.tags.get(INSTANCE_TAG), &Some(&c.site.instance.to_string()))?;
    let seen = c.found(&eni.id).await?;
    same("described", &seen, &eni)
}

async fn found_by_filters(c: &Contract<'_>) -> Outcome {
    let on_instance = EniScope::AttachedTo(c.site.instance.clone());
    let before = c.described(&on_instance).await?.len();
    let eni = c.created(0, 0).await?;
    c.found(&eni.id).await?;
    same("attached ones", &c.described(&on_instance).await?.len(), &before)?;
    c.done(&c.attach(&eni.id, 1)).await?;
    let attached = c.described(&on_instance).await?;
    holds(attached.iter().any(|e| e.id == eni.id), || "it is not found by its instance".to_owned())?;
    let nobody: eni_proto::ids::InstanceId =
        "i-00000000000000000".parse().map_err(|e| format!("an id: {e}"))?;
    same("of another tag", &c.described(&EniScope::TaggedFor(nobody)).await?, &Vec::new())?;
    c.until_attached(&eni.id).await.map(|_| ())
}

async fn repeated_create(c: &Contract<'_>) -> Outcome {
    let create = c.create(1, 0);
    let first = c.make(&create).await.map_err(|e| e.to_string())?;
    let again = c.api.mutate(&create).await.map_err(|e| e.to_string())?;
    let ipamd_core::cloud::Mutated::Created(again) = again else { return Err(format!("{again:?}")) };
    same("the ENI", &again.id, &first.id)?;
    let made = c.tagged().await?.len();
    same("how many there are", &made, &1)
}

async fn token_mismatch(c: &Contract<'_>) -> Outcome {
    let create = c.create(1, 0);
    c.make(&create).await.map_err(|e| e.to_string())?;
    let mut other = create;
    if let Mutation::Create { secondary, .. } = &mut other {
        *secondary = 2;
    }
    let error = c.refused(&other, CloudErrorKind::Other).await?;
    same("code", &error.code.as_deref(), &Some("IdempotentParameterMismatch"))?;
    holds(!error.leaves_open(), || "it is a refusal".to_owned())
}

async fn not_found(c: &Contract<'_>) -> Outcome {
    let eni: EniId = "eni-00000000000000000".parse().map_err(|e| format!("an id: {e}"))?;
    let missing = [
        Mutation::Assign { eni: eni.clone(), count: 1, prefixes: 0 },
        c.attach(&eni, 1),
        Mutation::Delete { eni },
    ];
    for mutation in missing {
        let error = c.refused(&mutation, CloudErrorKind::NotFound).await?;
        same("code", &error.code.as_deref(), &Some("InvalidNetworkInterfaceID.NotFound"))?;
        holds(error.request_id.is_some(), || format!("no request id: {error}"))?;
    }
    let mut elsewhere = c.create(0, 0);
    if let Mutation::Create { subnet, .. } = &mut elsewhere {
        *subnet = "subnet-00000000000000000".parse().map_err(|e| format!("an id: {e}"))?;
    }
    c.refused(&elsewhere, CloudErrorKind::NotFound).await.map(|_| ())
}

async fn attachment_is_told(c: &Contract<'_>) -> Outcome {
    let eni = c.created(1, 0).await?;
    c.done(&c.attach(&eni.id, 1)).await?;
    let at_once = c.found(&eni.id).await?.attachment.ok_or("an attachment is told at once")?;
    holds(at_once.status != EniAttachmentStatus::Detaching, || format!("{at_once:?}"))?;
    let seen = c.until_attached(&eni.id).await?;
    let at = seen.attachment.ok_or("it is attached")?;
    same("instance", &at.instance, &c.site.instance)?;
    same("device index", &at.device_index, &1)?;
    same("network card", &at.network_card, &0)?;
    holds(at.id.as_deref().is_some_and(|id| id.starts_with("eni-attach-")), || format!("{at:?}"))?;
    same("addresses", &seen.secondary, &eni.secondary)?;
    same("mac", &seen.mac, &eni.mac)
}

async fn in_use(c: &Contract<'_>) -> Outcome {
    let eni = c.attached(0, 1).await?.id;
    c.refused(&c.attach(&eni, 2), CloudErrorKind::InUse).await?;
    c.refused(&Mutation::Delete { eni: eni.clone() }, CloudErrorKind::InUse).await?;
    let other = c.created(0, 0).await?.id;
    c.refused(&c.attach(&other, 1), CloudErrorKind::Other).await?;
    c.done(&c.detach(&eni).await?).await?;
    c.refused(&c.attach(&eni, 2), CloudErrorKind::InUse).await.map(|_| ())
}

async fn eni_limit(c: &Contract<'_>) -> Outcome {
    let most = c.limits().await?.enis;
    for device_index in 1..most {
        c.attached(0, device_index).await?;
    }
    let over = c.created(0, 0).await?.id;
    c.refused(&c.attach(&over, most), CloudErrorKind::LimitReached).await?;
    same("its attachment", &c.found(&over).await?.attachment, &None)
}

async fn detached_and_deleted(c: &Contract<'_>) -> Outcome {
    let eni = c.attached(1, 1).await?.id;
    let detach = c.detach(&eni).await?;
    c.done(&detach).await?;
    let available =
        |seen: Option<&ipamd_core::cloud::EniObservation>| seen.is_some_and(|e| e.attachment.is_none());
    c.until("it is available", &eni, available).await?;
    c.done(&Mutation::Delete { eni: eni.clone() }).await?;
    same("after it was deleted", &c.find(&eni).await?, &None)?;
    if c.can.not_found {
        c.refused(&Mutation::Delete { eni }, CloudErrorKind::NotFound).await?;
    }
    Ok(())
}

async fn groups_are_replaced(c: &Contract<'_>) -> Outcome {
    let eni = c.created(0, 0).await?.id;
    let security_groups = c.site.security_groups[1..2].to_vec();
    c.done(&Mutation::SetSecurityGroups { eni: eni.clone(), security_groups: security_groups.clone() })
        .await?;
    same("groups", &c.found(&eni).await?.security_groups, &security_groups)
}

async fn termination_is_set(c: &Contract<'_>) -> Outcome {
    let eni = c.attached(0, 1).await?;
    let at = eni.attachment.ok_or("it is attached")?;
    holds(!at.delete_on_termination, || "it was set before".to_owned())?;
    let attachment = at.id.ok_or("an attachment has an id")?;
    c.done(&Mutation::SetDeleteOnTermination { eni: eni.id.clone(), attachment }).await?;
    let after = c.found(&eni.id).await?.attachment.ok_or("it is attached")?;
    holds(after.delete_on_termination, || "it was not set".to_owned())
}

async fn limits_are_told(c: &Contract<'_>) -> Outcome {
    let limits = c.limits().await?;
    holds(limits.enis >= 2 && limits.addresses_per_eni >= 2, || format!("{limits:?}"))?;
    let unknown = c.api.describe_limits("m5.huge").await;
    holds(unknown.is_err(), || format!("m5.huge: {unknown:?}"))
}

async fn all_are_described(c: &Contract<'_>) -> Outcome {
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(c.created(0, 0).await?.id);
    }
    let seen = c.tagged().await?;
    let missing = made.iter().filter(|id| seen.iter().filter(|e| e.id == **id).count() != 1).count();
    same("not described once", &missing, &0)
}

async fn metadata_tells(c: &Contract<'_>) -> Outcome {
    let metadata = c.metadata.ok_or("it has metadata")?;
    let identity = metadata.identity().await.map_err(|e| e.to_string())?;
    same("instance", &identity.instance, &c.site.instance)?;
    same("type", &identity.instance_type, &c.site.instance_type)?;
    holds(!identity.vpc_cidrs.is_empty() && !identity.region.is_empty(), || format!("{identity:?}"))?;
    let eni = c.attached(2, 1).await?;
    let told = metadata.interfaces().await.map_err(|e| e.to_string())?;
    let told = told.iter().find(|t| t.mac == eni.mac).ok_or_else(|| format!("not there: {told:?}"))?;
    same("id", &told.id, &Some(eni.id.clone()))?;
    same("device index", &told.device_index, &Some(1))?;
    same("addresses, its own first", &told.addresses, &eni.all_addresses().collect())?;
    same("subnet", &told.subnet_cidr, &Some(eni.subnet_cidr))
}
