//! EC2's Query API: each action's parameters and its answer.
//!
//! Owns reading an action into a call of the model, by the names of the service model (botocore, `ec2/2016-11-15`),
//! and writing what was done as XML. An action or a parameter that is not served is refused, and so is a request
//! without a signature; the signature itself is not verified (nobody here has a secret). Does not decide anything that
//! EC2 decides.

use super::form::{Parameters, Refused};
use super::message::{Request, Response};
use super::{Http, xml};
use crate::model::{Ec2, EniQuery, Extra};
use crate::served::{NotDone, now};
use eni_proto::ids::EniId;
use ipamd_core::cloud::{CloudError, CloudErrorKind, EniObservation, Mutated, Mutation};
use std::collections::BTreeMap;
use std::str::FromStr;

/// The version of the API.
const VERSION: &str = "2016-11-15";

/// What an action ends as, when it is not answered.
enum Not {
    /// Its parameters are not right.
    Asked(Refused),
    /// EC2 refused it, or it was not answered.
    Done(CloudError),
    /// The network did not follow.
    Followed(String),
}

impl From<Refused> for Not {
    fn from(refused: Refused) -> Not {
        Not::Asked(refused)
    }
}

impl From<CloudError> for Not {
    fn from(error: CloudError) -> Not {
        Not::Done(error)
    }
}

impl From<NotDone> for Not {
    fn from(not_done: NotDone) -> Not {
        match not_done {
            NotDone::Refused(error) => Not::Done(error),
            NotDone::NotFollowed(why) => Not::Followed(why),
        }
    }
}

/// Answers a request; none closes the connection instead.
pub(super) fn answer(http: &Http, request: &Request) -> Option<Response> {
    let (action, result) = match Parameters::parse(&request.body) {
        Err(refused) => ("Unknown".to_owned(), Err(Not::Asked(refused))),
        Ok(mut form) => {
            let action = form.take("Action").unwrap_or_default();
            let result = admit(request, &mut form).and_then(|()| act(http, &action, form));
            (action, result)
        }
    };
    let error = match result {
        Ok(body) => return Some(Response::new(200, CONTENT, body)),
        Err(Not::Done(error)) => error,
        Err(Not::Asked(refused)) => http.served.ec2().refuse(&action, refused.code, &refused.message, now()),
        Err(Not::Followed(why)) => CloudError {
            code: Some("InternalError".to_owned()),
            ..CloudError::new(
                CloudErrorKind::Unreachable,
                action,
                format!("the network did not follow: {why}"),
            )
        },
    };
    // What has no code had no answer.
    let code = error.code.as_deref()?;
    let id = error.request_id.as_deref().unwrap_or("req-none");
    let mut response = Response::new(status_of(code), CONTENT, xml::refusal(code, &error.message, id));
    if let Some(ms) = error.retry_after_ms {
        response.headers.push(("Retry-After", ms.div_ceil(1_000).to_string()));
    }
    Some(response)
}

const CONTENT: &str = "text/xml;charset=UTF-8";

/// The HTTP status of a code (EC2 API reference, "Error codes": client errors are 400 and the like, server errors 5xx).
fn status_of(code: &str) -> u16 {
    match code {
        "UnauthorizedOperation" => 403,
        "AuthFailure" => 401,
        "DryRunOperation" => 412,
        "InternalError" | "InternalFailure" => 500,
        "RequestLimitExceeded" | "Unavailable" | "ServiceUnavailable" | "Throttling" => 503,
        _ => 400,
    }
}

/// The version and the signature's presence; a session of ours that has ended is known by its token.
fn admit(request: &Request, form: &mut Parameters) -> Result<(), Not> {
    let version = form.take("Version").unwrap_or_default();
    if version != VERSION {
        let message = format!("The version '{version}' is not served, but {VERSION}.");
        return Err(Refused::new("InvalidParameterValue", message).into());
    }
    let signed = |value: &str| value.starts_with("AWS4-HMAC-SHA256 Credential=");
    if !request.header("authorization").is_some_and(signed) {
        let message = "AWS was not able to validate the provided access credentials".to_owned();
        return Err(Refused::new("AuthFailure", message).into());
    }
    if request.header("x-amz-security-token").is_some_and(super::metadata::has_expired) {
        return Err(Refused::new("RequestExpired", "Request has expired.".to_owned()).into());
    }
    Ok(())
}

type Done = Result<String, Not>;

fn act(http: &Http, action: &str, mut form: Parameters) -> Done {
    let served: fn(&Http, Parameters) -> Done = match action {
        "DescribeNetworkInterfaces" => describe_enis,
        "DescribeInstanceTypes" => describe_instance_types,
        "DescribeSubnets" => describe_subnets,
        "CreateNetworkInterface" => create,
        "AttachNetworkInterface" => attach,
        "AssignPrivateIpAddresses" => assign,
        "UnassignPrivateIpAddresses" => unassign,
        "DetachNetworkInterface" => detach,
        "DeleteNetworkInterface" => delete,
        "ModifyNetworkInterfaceAttribute" => modify,
        _ => {
            let message = format!("The action '{action}' is not valid for this web service.");
            return Err(Refused::new("InvalidAction", message).into());
        }
    };
    if form.read::<bool>("DryRun")?.unwrap_or(false) {
        return Err(http.served.ec2().dry_run(action, now()).into());
    }
    served(http, form)
}

/// An id, refused as EC2 refuses what is none.
fn id<T: FromStr>(form: &mut Parameters, name: &str, code: &'static str) -> Result<T, Not> {
    let text = form.require(name)?;
    text.parse().map_err(|_| Refused::new(code, format!("Invalid id: \"{text}\"")).into())
}

fn eni_id(form: &mut Parameters) -> Result<EniId, Not> {
    id(form, "NetworkInterfaceId", "InvalidNetworkInterfaceId.Malformed")
}

fn describe_enis(http: &Http, mut form: Parameters) -> Done {
    let mut query = EniQuery {
        ids: form.list("NetworkInterfaceId"),
        max_results: form.read("MaxResults")?,
        next_token: form.take("NextToken"),
        filters: Vec::new(),
    };
    for mut filter in form.structures("Filter") {
        query.filters.push((filter.require("Name")?, filter.list("Value")));
        filter.end()?;
    }
    form.end()?;
    let name = "DescribeNetworkInterfaces";
    Ok(http.served.call(name, |ec2, fault| {
        let page = ec2.describe_page(&query, fault, now())?;
        Ok::<_, CloudError>(xml::response(name, &ec2.last_request_id(), |xml| {
            xml.list("networkInterfaceSet", &page.enis, |xml, eni| xml::eni(xml, eni, ec2))
                .maybe("nextToken", page.next_token.as_ref());
        }))
    })?)
}

fn describe_instance_types(http: &Http, mut form: Parameters) -> Done {
    let types = form.list("InstanceType");
    form.end()?;
    let [one] = types.as_slice() else {
        let message = format!("One instance type is served at a time, {} were asked for.", types.len());
        return Err(Refused::new("InvalidParameterValue", message).into());
    };
    let name = "DescribeInstanceTypes";
    Ok(http.served.call(name, |ec2, fault| {
        let limits = ec2.describe_limits(one, fault, now())?;
        Ok::<_, CloudError>(xml::response(name, &ec2.last_request_id(), |xml| {
            xml.list("instanceTypeSet", [&limits], |xml, limits| xml::instance_type(xml, one, limits));
        }))
    })?)
}

fn describe_subnets(http: &Http, mut form: Parameters) -> Done {
    let ids = form.list("SubnetId");
    form.end()?;
    let name = "DescribeSubnets";
    Ok(http.served.call(name, |ec2, fault| {
        let subnets = ec2.describe_subnets(&ids, fault, now())?;
        Ok::<_, CloudError>(xml::response(name, &ec2.last_request_id(), |xml| {
            xml.list("subnetSet", &subnets, xml::subnet);
        }))
    })?)
}

/// Makes a change and writes its answer.
fn changed(
    http: &Http,
    mutation: &Mutation,
    extra: &Extra,
    write: impl FnOnce(&mut xml::Xml, &Ec2, Mutated),
) -> Done {
    Ok(http.served.mutate(mutation, extra, |ec2, mutated| {
        xml::response(mutation.call(), &ec2.last_request_id(), |xml| write(xml, ec2, mutated))
    })?)
}

/// What most changes answer.
fn returns_true(xml: &mut xml::Xml, _: &Ec2, _: Mutated) {
    xml.value("return", true);
}

fn create(http: &Http, mut form: Parameters) -> Done {
    let mut tags = BTreeMap::new();
    for mut specification in form.structures("TagSpecification") {
        let resource = specification.require("ResourceType")?;
        if resource != "network-interface" {
            let message = format!("'{resource}' is not a resource that this action creates.");
            return Err(Refused::new("InvalidParameterValue", message).into());
        }
        for mut tag in specification.structures("Tag") {
            tags.insert(tag.require("Key")?, tag.take("Value").unwrap_or_default());
            tag.end()?;
        }
        specification.end()?;
    }
    let token = form.take("ClientToken").unwrap_or_default();
    let create = Mutation::Create {
        subnet: id(&mut form, "SubnetId", "InvalidSubnet")?,
        security_groups: form.list("SecurityGroupId"),
        secondary: form.read("SecondaryPrivateIpAddressCount")?.unwrap_or(0),
        prefixes: form.read("Ipv4PrefixCount")?.unwrap_or(0),
        tags,
        token: token.clone(),
    };
    let extra = Extra { description: form.take("Description").unwrap_or_default(), ..Extra::default() };
    form.end()?;
    changed(http, &create, &extra, |xml, ec2, mutated| {
        if let Mutated::Created(made) = mutated {
            xml.element("networkInterface", |xml| xml::eni(xml, &made, ec2));
            xml.maybe("clientToken", Some(token).filter(|token| !token.is_empty()));
        }
    })
}

fn attach(http: &Http, mut form: Parameters) -> Done {
    let eni = eni_id(&mut form)?;
    let instance = id(&mut form, "InstanceId", "InvalidInstanceID.Malformed")?;
    let device_index = form.read("DeviceIndex")?.ok_or_else(|| {
        Refused::new("MissingParameter", "The request must contain the parameter DeviceIndex".to_owned())
    })?;
    if form.read::<u32>("NetworkCardIndex")?.is_some_and(|card| card > 0) {
        let message = "Network card 0 is the only one that is served.".to_owned();
        return Err(Refused::new("InvalidParameterValue", message).into());
    }
    form.end()?;
    let mutation = Mutation::Attach { eni: eni.clone(), instance, device_index };
    changed(http, &mutation, &Extra::default(), |xml, ec2, _| {
        let at = ec2.enis().iter().find(|e| e.id == eni).and_then(|e| e.attachment.as_ref());
        xml.maybe("attachmentId", at.and_then(|at| at.id.as_ref())).value("networkCardIndex", 0);
    })
}

fn assign(http: &Http, mut form: Parameters) -> Done {
    let eni = eni_id(&mut form)?;
    let mutation = Mutation::Assign {
        eni: eni.clone(),
        count: form.read("SecondaryPrivateIpAddressCount")?.unwrap_or(0),
        prefixes: form.read("Ipv4PrefixCount")?.unwrap_or(0),
    };
    form.end()?;
    changed(http, &mutation, &Extra::default(), |xml, _, mutated| {
        xml.value("networkInterfaceId", &eni);
        match mutated {
            Mutated::Assigned(addresses) => {
                xml.list("assignedPrivateIpAddressesSet", addresses, |xml, address| {
                    xml.value("privateIpAddress", address);
                });
            }
            Mutated::AssignedPrefixes(prefixes) => {
                xml.list("assignedIpv4PrefixSet", prefixes, |xml, prefix| {
                    xml.value("ipv4Prefix", prefix);
                });
            }
            Mutated::Created(_) | Mutated::Done => {}
        }
        xml.value("return", true);
    })
}

fn unassign(http: &Http, mut form: Parameters) -> Done {
    let mutation = Mutation::Unassign {
        eni: eni_id(&mut form)?,
        addresses: form.read_list("PrivateIpAddress")?,
        prefixes: form.read_list("Ipv4Prefix")?,
    };
    form.end()?;
    changed(http, &mutation, &Extra::default(), returns_true)
}

/// The call names an attachment alone: the model's is told the ENI that has it.
fn detach(http: &Http, mut form: Parameters) -> Done {
    let attachment = form.require("AttachmentId")?;
    let force = form.read("Force")?.unwrap_or(false);
    form.end()?;
    let has = |eni: &&EniObservation| {
        eni.attachment.as_ref().is_some_and(|at| at.id.as_deref() == Some(&attachment))
    };
    let owner = http.served.ec2().enis().iter().find(has).map(|eni| eni.id.clone());
    let Some(eni) = owner else {
        let message = format!("The attachment '{attachment}' does not exist");
        return Err(Refused::new("InvalidAttachmentID.NotFound", message).into());
    };
    let mutation = Mutation::Detach { eni, attachment: Some(attachment) };
    changed(http, &mutation, &Extra { force, ..Extra::default() }, returns_true)
}

fn delete(http: &Http, mut form: Parameters) -> Done {
    let mutation = Mutation::Delete { eni: eni_id(&mut form)? };
    form.end()?;
    changed(http, &mutation, &Extra::default(), returns_true)
}

/// "You can specify only one attribute at a time."
fn modify(http: &Http, mut form: Parameters) -> Done {
    let eni = eni_id(&mut form)?;
    let security_groups = form.list("SecurityGroupId");
    let attachment = form.take("Attachment.AttachmentId");
    let delete_on_termination = form.read::<bool>("Attachment.DeleteOnTermination")?;
    form.end()?;
    let mutation = match (security_groups.is_empty(), attachment, delete_on_termination) {
        (false, None, None) => Mutation::SetSecurityGroups { eni, security_groups },
        (true, Some(attachment), Some(true)) => Mutation::SetDeleteOnTermination { eni, attachment },
        (true, Some(_), Some(false)) => {
            let message = "DeleteOnTermination is served as true only.".to_owned();
            return Err(Refused::new("InvalidParameterValue", message).into());
        }
        _ => {
            let message = "One attribute is changed at a time: SecurityGroupId, or Attachment.AttachmentId \
                           with Attachment.DeleteOnTermination.";
            return Err(Refused::new("InvalidParameterCombination", message.to_owned()).into());
        }
    };
    changed(http, &mutation, &Extra::default(), returns_true)
}
