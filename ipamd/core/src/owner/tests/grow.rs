//! Growth that EC2 does not allow: how seldom it is tried again.

use super::*;
use crate::cloud::{CloudError, CloudErrorKind, INSTANCE_TAG, Mutated, Mutation};

/// What EC2 has beside the primary, for a role that may create ENIs and not attach them.
pub(super) struct Ec2 {
    pub(super) enis: Vec<EniObservation>,
    /// Nor delete them.
    keeps: bool,
    /// By now it may attach.
    attaches: bool,
    calls: Vec<&'static str>,
}

impl Ec2 {
    pub(super) fn mutate(&mut self, mutation: Mutation) -> Result<Mutated, CloudError> {
        self.calls.push(mutation.call());
        let refused = CloudError {
            code: Some("UnauthorizedOperation".to_owned()),
            ..CloudError::new(CloudErrorKind::Unauthorized, mutation.call(), "not authorized")
        };
        match mutation {
            Mutation::Create { subnet, secondary, tags, .. } => {
                assert_eq!(tags.get(INSTANCE_TAG).map(String::as_str), Some("i-1"));
                let number = u8::try_from(self.calls.len()).unwrap();
                let eni = EniObservation {
                    id: format!("eni-{}", 100 + number).parse().unwrap(),
                    mac: MacAddr([2, 0, 0, 0, 1, number]),
                    subnet,
                    subnet_cidr: "10.0.1.0/24".parse().unwrap(),
                    primary: Some(Ipv4Addr::new(10, 1, number, 10)),
                    secondary: (0..secondary).map(|n| Ipv4Addr::new(10, 1, number, 20 + n as u8)).collect(),
                    prefixes: Vec::new(),
                    attachment: None,
                    security_groups: Vec::new(),
                    tags,
                    private_dns_name: None,
                    kind: "interface".into(),
                };
                self.enis.push(eni.clone());
                Ok(Mutated::Created(eni))
            }
            Mutation::Attach { eni, instance, device_index } if self.attaches => {
                let at = EniAttachment {
                    instance,
                    device_index,
                    status: EniAttachmentStatus::Attached,
                    id: Some("eni-attach-1".into()),
                    network_card: 0,
                    delete_on_termination: true,
                };
                self.enis.iter_mut().find(|e| e.id == eni).unwrap().attachment = Some(at);
                Ok(Mutated::Done)
            }
            Mutation::Delete { eni } if !self.keeps => {
                self.enis.retain(|e| e.id != eni);
                Ok(Mutated::Done)
            }
            _ => Err(refused),
        }
    }
}

/// A node that wants one more ENI and may not attach it, after ten minutes in which nobody waits.
fn ten_minutes(keeps: bool) -> Bench {
    let mut bench = Bench::new(4);
    bench.ec2 = Some(Ec2 { enis: Vec::new(), keeps, attaches: false, calls: Vec::new() });
    bench.pass(Duration::from_secs(30));
    bench.send(Event::Add { op: OpId(1), ask: ask("a", 7) });
    bench.added(1);
    bench.looks = 0;
    let end = bench.now + Duration::from_secs(600);
    while let Some(next) = bench.owner.next_deadline().filter(|next| *next <= end) {
        bench.now = next.max(bench.now);
        bench.send(Event::Wake);
    }
    bench
}

fn creates(bench: &Bench) -> usize {
    let calls = &bench.ec2.as_ref().unwrap().calls;
    calls.iter().filter(|call| **call == "CreateNetworkInterface").count()
}

#[test]
fn what_may_not_be_attached_is_created_more_and_more_seldom() {
    let mut bench = ten_minutes(false);
    assert!((2..=5).contains(&creates(&bench)), "{:?}", bench.ec2.as_ref().unwrap().calls);
    assert!(bench.looks < 60, "{} looks", bench.looks);
    assert!(bench.ec2.as_ref().unwrap().enis.is_empty(), "each was deleted again");
    assert!(bench.owner.health().reasons.iter().any(|r| r.contains("not authorized")), "it is told");
    // The role may attach by now: from the next one on all is as ever.
    bench.ec2.as_mut().unwrap().attaches = true;
    for _ in 0..20 {
        bench.pass(Duration::from_secs(30));
    }
    assert!(bench.ec2.as_ref().unwrap().enis.iter().any(|eni| eni.attachment.is_some()));
}

#[test]
fn what_may_not_even_be_deleted_is_not_looked_at_all_the_time() {
    let bench = ten_minutes(true);
    assert!((1..=5).contains(&creates(&bench)), "{:?}", bench.ec2.as_ref().unwrap().calls);
    assert!(bench.looks < 60, "{} looks", bench.looks);
}
