//! What EC2 does on a bad day: full and fragmented subnets, quotas, throttling, denials, late truths, lost replies.
//!
//! Owns those checks; they need a server whose inside can be changed.

use super::addresses::{assign, unassign};
use super::{Check, Contract, Outcome, holds, same};
use embedded_vpc::model::{BucketSize, Effect, Fault, Gap, GapKind, Lags, NO_REPLY, OtherEni, Throttling};
use ipamd_core::cloud::{CloudErrorKind, EniAttachmentStatus, EniScope, Mutation};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "a full subnet is told as such, and nothing is made",
        source: "EC2 API reference, Error codes: InsufficientFreeAddressesInSubnet",
        needs: |c| c.stage.is_some(),
        run: |c| Box::pin(full_subnet(c)),
    },
    Check {
        name: "a fragmented subnet has addresses and no prefix",
        source: "EC2 user guide, Prefix delegation: InsufficientCidrBlocks",
        needs: |c| c.stage.is_some() && c.can.prefixes,
        run: |c| Box::pin(fragmented_subnet(c)),
    },
    Check {
        name: "a released address comes back late",
        source: "no promise of EC2: what is released is not free at once",
        needs: |c| c.stage.is_some(),
        run: |c| Box::pin(late_release(c)),
    },
    Check {
        name: "the quota of the Region is told apart from the limit of the instance",
        source: "EC2 API reference, Error codes: NetworkInterfaceLimitExceeded",
        needs: |c| c.stage.is_some(),
        run: |c| Box::pin(quota(c)),
    },
    Check {
        name: "a throttled call changes nothing and says for how long",
        source: "EC2 developer guide, Request throttling for the Amazon EC2 API",
        needs: |c| c.stage.is_some(),
        run: |c| Box::pin(throttled(c)),
    },
    Check {
        name: "a denied action is named",
        source: "EC2 API reference, Error codes: UnauthorizedOperation",
        needs: |c| c.stage.is_some(),
        run: |c| Box::pin(denied(c)),
    },
    Check {
        name: "a create without an answer is found by its token",
        source: "EC2 developer guide, Ensuring idempotency in Amazon EC2 API requests",
        needs: |c| c.stage.is_some() && c.can.tokens,
        run: |c| Box::pin(lost_reply(c)),
    },
    Check {
        name: "describes tell late what calls see at once",
        source: "EC2 developer guide, Eventual consistency in the Amazon EC2 API",
        needs: |c| c.stage.is_some(),
        run: |c| Box::pin(late_describe(c)),
    },
    Check {
        name: "a describe without an ENI's own address is partial, and says so",
        source: "EC2 developer guide, Eventual consistency in the Amazon EC2 API",
        needs: |c| c.stage.is_some(),
        run: |c| Box::pin(partial_describe(c)),
    },
    Check {
        name: "a detaching that hangs is detaching until it ends",
        source: "API_DetachNetworkInterface, Force",
        needs: |c| c.stage.is_some(),
        run: |c| Box::pin(stuck_detach(c)),
    },
    Check {
        name: "ENIs of others are told with their kind and card",
        source: "API_NetworkInterface, InterfaceType; API_NetworkInterfaceAttachment, NetworkCardIndex",
        needs: |c| c.stage.is_some(),
        run: |c| Box::pin(others(c)),
    },
    Check {
        name: "the metadata lags behind attaching and behind addresses",
        source: "EC2 user guide, Instance metadata; API_AssignPrivateIpAddresses: remapping is asynchronous",
        needs: |c| c.stage.is_some() && c.metadata.is_some(),
        run: |c| Box::pin(late_metadata(c)),
    },
];

async fn full_subnet(c: &Contract<'_>) -> Outcome {
    let eni = c.created(0, 0).await?;
    c.set(|ec2, _| ec2.set_subnet_free(Some(1)));
    let result = async {
        let error = c.refused(&assign(&eni, 2, 0), CloudErrorKind::SubnetFull).await?;
        same("code", &error.code.as_deref(), &Some("InsufficientFreeAddressesInSubnet"))?;
        c.refused(&c.create(1, 0), CloudErrorKind::SubnetFull).await?;
        same("what there is", &c.tagged().await?.len(), &1)?;
        c.done(&assign(&eni, 1, 0)).await
    }
    .await;
    c.set(|ec2, _| ec2.set_subnet_free(None));
    result
}

async fn fragmented_subnet(c: &Contract<'_>) -> Outcome {
    let eni = c.created(0, 0).await?;
    c.set(|ec2, _| ec2.set_fragmented(true));
    let result = async {
        let error = c.refused(&assign(&eni, 0, 1), CloudErrorKind::PrefixesExhausted).await?;
        same("code", &error.code.as_deref(), &Some("InsufficientCidrBlocks"))?;
        c.refused(&c.create(0, 1), CloudErrorKind::PrefixesExhausted).await?;
        c.done(&assign(&eni, 2, 0)).await
    }
    .await;
    c.set(|ec2, _| ec2.set_fragmented(false));
    c.set(|ec2, _| ec2.set_subnet_free(Some(10)));
    let nearly_full = c.refused(&assign(&eni, 0, 1), CloudErrorKind::PrefixesExhausted).await;
    c.set(|ec2, _| ec2.set_subnet_free(None));
    result.and(nearly_full.map(|_| ()))
}

async fn late_release(c: &Contract<'_>) -> Outcome {
    let eni = c.created(2, 0).await?;
    c.set(|ec2, _| {
        ec2.set_lags(Lags { release_ms: 1_500, ..Lags::default() });
        ec2.set_subnet_free(Some(0));
    });
    let result = async {
        c.done(&unassign(&eni, &eni.secondary, &[])).await?;
        c.refused(&assign(&eni, 1, 0), CloudErrorKind::SubnetFull).await?;
        for _ in 0..20 {
            (c.pause)().await;
        }
        c.done(&assign(&eni, 2, 0)).await
    }
    .await;
    c.set(|ec2, _| {
        ec2.set_lags(Lags::default());
        ec2.set_subnet_free(None);
    });
    result
}

async fn quota(c: &Contract<'_>) -> Outcome {
    c.set(|ec2, _| {
        let there = u32::try_from(ec2.enis().len()).unwrap_or(u32::MAX);
        ec2.set_quota(Some(there));
    });
    let refused = c.refused(&c.create(0, 0), CloudErrorKind::QuotaReached).await;
    c.set(|ec2, _| ec2.set_quota(None));
    same("code", &refused?.code.as_deref(), &Some("NetworkInterfaceLimitExceeded"))?;
    c.created(0, 0).await.map(|_| ())
}

async fn throttled(c: &Contract<'_>) -> Outcome {
    let empty = BucketSize { capacity: 0, refill: 0 };
    let buckets = BTreeMap::from([("CreateNetworkInterface".to_owned(), empty)]);
    c.set(|ec2, _| {
        ec2.set_throttling(Throttling::Buckets(buckets.clone()));
        ec2.set_retry_after(Some(3_000));
    });
    let refused = c.refused(&c.create(0, 0), CloudErrorKind::Throttled).await;
    c.set(|ec2, _| {
        ec2.set_throttling(Throttling::Off);
        ec2.set_retry_after(None);
    });
    let error = refused?;
    same("code", &error.code.as_deref(), &Some("RequestLimitExceeded"))?;
    same("how long to wait", &error.retry_after_ms, &Some(3_000))?;
    holds(!error.leaves_open(), || "it is a refusal".to_owned())?;
    same("what there is", &c.tagged().await?.len(), &0)
}

async fn denied(c: &Contract<'_>) -> Outcome {
    for action in ["CreateNetworkInterface", "CreateTags"] {
        c.set(|ec2, _| ec2.set_denied(BTreeSet::from([action.to_owned()])));
        let refused = c.refused(&c.create(0, 0), CloudErrorKind::Unauthorized).await;
        c.set(|ec2, _| ec2.set_denied(BTreeSet::new()));
        let error = refused?;
        same("code", &error.code.as_deref(), &Some("UnauthorizedOperation"))?;
        same("action", &error.denied, &Some(format!("ec2:{action}")))?;
    }
    same("what there is", &c.tagged().await?.len(), &0)
}

async fn lost_reply(c: &Contract<'_>) -> Outcome {
    let fault = Fault {
        call: "CreateNetworkInterface".to_owned(),
        error: Some(NO_REPLY.to_owned()),
        delay_ms: 0,
        count: 1,
        effect: Effect::After,
    };
    c.set(|ec2, _| ec2.set_fault(fault.clone()));
    let create = c.create(1, 0);
    let error = c.refused(&create, CloudErrorKind::Unreachable).await?;
    holds(error.leaves_open(), || format!("it may have been done: {error:?}"))?;
    same("it was done", &c.tagged().await?.len(), &1)?;
    let made = c.make(&create).await.map_err(|e| e.to_string())?;
    same("the same one", &c.tagged().await?.first().map(|e| e.id.clone()), &Some(made.id))
}

async fn late_describe(c: &Contract<'_>) -> Outcome {
    c.set(|ec2, _| ec2.set_lags(Lags { describe_ms: 2_000, ..Lags::default() }));
    let result = async {
        let eni = c.created(1, 0).await?;
        same("described at once", &c.find(&eni.id).await?, &None)?;
        c.done(&c.attach(&eni.id, 1)).await?;
        c.until("it is described at all", &eni.id, |seen| seen.is_some()).await?;
        c.until_attached(&eni.id).await?;
        c.done(&c.detach(&eni.id).await?).await?;
        let seen = c.found(&eni.id).await?.attachment.map(|a| a.status);
        same("a while later still", &seen, &Some(EniAttachmentStatus::Attached))
    }
    .await;
    c.set(|ec2, _| ec2.set_lags(Lags::default()));
    result
}

async fn partial_describe(c: &Contract<'_>) -> Outcome {
    let eni = c.created(1, 0).await?;
    let gap = |kind, for_ms| Gap { eni: eni.id.clone(), kind, for_ms };
    c.set(|ec2, now| ec2.set_gap(gap(GapKind::DescribePrimary, None), now));
    let partial = c.found(&eni.id).await;
    c.set(|ec2, now| {
        ec2.set_gap(gap(GapKind::DescribePrimary, Some(0)), now);
        ec2.set_gap(gap(GapKind::DescribeEni, Some(1_500)), now);
    });
    let partial = partial?;
    same("its own address", &partial.primary, &None)?;
    same("the others", &partial.secondary, &eni.secondary)?;
    same("without it", &c.find(&eni.id).await?, &None)?;
    let back = c.until("it is back", &eni.id, |seen| seen.is_some()).await?;
    same("as it was", &back, &Some(eni.clone()))
}

async fn stuck_detach(c: &Contract<'_>) -> Outcome {
    let eni = c.attached(0, 1).await?;
    c.set(|ec2, now| ec2.set_stuck_detach(true, now));
    let result = async {
        c.done(&c.detach(&eni.id).await?).await?;
        for _ in 0..10 {
            (c.pause)().await;
        }
        let status = c.found(&eni.id).await?.attachment.map(|a| a.status);
        same("its attachment", &status, &Some(EniAttachmentStatus::Detaching))?;
        c.refused(&Mutation::Delete { eni: eni.id.clone() }, CloudErrorKind::InUse).await.map(|_| ())
    }
    .await;
    c.set(|ec2, now| ec2.set_stuck_detach(false, now));
    result?;
    c.until("it is available", &eni.id, |seen| seen.is_some_and(|e| e.attachment.is_none())).await.map(|_| ())
}

/// Those that it adds stay: they are not ours to take away.
async fn others(c: &Contract<'_>) -> Outcome {
    let other = |kind: &str, network_card| OtherEni {
        device_index: Some(1 + network_card),
        network_card,
        kind: kind.to_owned(),
        tags: BTreeMap::from([("node.k8s.amazonaws.com/no_manage".to_owned(), "true".to_owned())]),
        secondary: 1,
        prefixes: 0,
        delete_on_termination: false,
    };
    let mut added = Vec::new();
    c.set(|ec2, now| {
        added.extend(ec2.add_other(&other("efa-only", 1), now));
        added.extend(ec2.add_other(&other("interface", 2), now));
    });
    let seen = c.described(&EniScope::AttachedTo(c.site.instance.clone())).await?;
    let told: Vec<_> = seen.iter().filter(|e| added.contains(&e.id)).collect();
    let [bare, plain] = told.as_slice() else { return Err(format!("{added:?} of {seen:?}")) };
    same("kinds", &(bare.kind.as_str(), plain.kind.as_str()), &("efa-only", "interface"))?;
    same("no addresses", &bare.all_addresses().count(), &0)?;
    let card = |e: &ipamd_core::cloud::EniObservation| e.attachment.as_ref().map(|a| a.network_card);
    same("cards", &(card(bare), card(plain)), &(Some(1), Some(2)))?;
    holds(plain.tags.contains_key("node.k8s.amazonaws.com/no_manage"), || format!("{plain:?}"))?;
    holds(c.tagged().await?.is_empty(), || "they carry no tag of ours".to_owned())
}

async fn late_metadata(c: &Contract<'_>) -> Outcome {
    let metadata = c.metadata.ok_or("it has metadata")?;
    let lags = Lags { metadata_attach_ms: 400, metadata_addresses_ms: 2_000, ..Lags::default() };
    c.set(|ec2, _| ec2.set_lags(lags));
    let result = async {
        let eni = c.attached(1, 1).await?;
        let mut without_addresses = false;
        for _ in 0..super::PAUSES {
            let told = metadata.interfaces().await.map_err(|e| e.to_string())?;
            match told.iter().find(|t| t.mac == eni.mac) {
                Some(told) if told.addresses.is_empty() => without_addresses = true,
                Some(told) => {
                    same("addresses", &told.addresses, &eni.all_addresses().collect())?;
                    return holds(without_addresses, || "its tree came with its addresses".to_owned());
                }
                None => {}
            }
            (c.pause)().await;
        }
        Err("its addresses were never told".to_owned())
    }
    .await;
    c.set(|ec2, _| ec2.set_lags(Lags::default()));
    result
}
