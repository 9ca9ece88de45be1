//! What the SDK makes of failures, from the wire to core's classes.
//!
//! Owns what is kept of an answer, what is tried again and what is not. The class of each code is `ipamd-ec2`'s own test.

use crate::recorder::{Recorder, refusal};
use crate::server::{Reply, Server};
use crate::wait;
use ipamd_core::cloud::{CloudError, CloudErrorKind, EniApi, EniScope, Mutation};
use ipamd_ec2::{Aws, Settings};

fn scope() -> EniScope {
    EniScope::AttachedTo(crate::golden::INSTANCE.parse().unwrap())
}

fn delete() -> Mutation {
    Mutation::Delete { eni: "eni-1".parse().unwrap() }
}

/// What a delete that is answered so fails with, and how often it was asked.
fn failed(reply: Reply) -> (CloudError, usize) {
    let recorder = Recorder::start();
    recorder.answer(reply);
    let error = wait(recorder.aws().enis.mutate(&delete())).unwrap_err();
    (error, recorder.take().len())
}

#[test]
fn a_refusal_keeps_its_code_words_and_request_id() {
    let (error, asked) = failed(refusal(400, "InvalidNetworkInterface.InUse", "Interface is in use"));
    assert_eq!((error.kind, asked), (CloudErrorKind::InUse, 1));
    assert_eq!(error.code.as_deref(), Some("InvalidNetworkInterface.InUse"));
    assert_eq!(error.request_id.as_deref(), Some("req-of-a-refusal"));
    assert_eq!(
        (error.call.as_str(), error.message.as_str()),
        ("DeleteNetworkInterface", "Interface is in use")
    );
    assert!(!error.leaves_open());
}

#[test]
fn a_denied_action_is_named_as_ec2_names_it_else_by_the_call() {
    let words = "You are not authorized to perform this operation. User: arn:aws:sts::1:assumed-role/node/i-1 is not \
                 authorized to perform: ec2:CreateTags on resource: arn:aws:ec2:us-east-1:1:network-interface/* because \
                 no identity-based policy allows the ec2:CreateTags action. Encoded authorization failure message: abc";
    let (error, _) = failed(refusal(403, "UnauthorizedOperation", words));
    assert_eq!((error.kind, error.denied.as_deref()), (CloudErrorKind::Unauthorized, Some("ec2:CreateTags")));
    assert!(!error.message.contains("Encoded"), "{error}");
    let (error, _) = failed(refusal(403, "UnauthorizedOperation", "You are not authorized."));
    assert_eq!(error.denied.as_deref(), Some("ec2:DeleteNetworkInterface"));
    let (error, _) =
        failed(refusal(401, "AuthFailure", "AWS was not able to validate the provided credentials"));
    assert_eq!((error.kind, error.denied), (CloudErrorKind::Unauthorized, None));
}

#[test]
fn a_change_is_made_once_and_what_ec2_asks_to_wait_is_told() {
    let throttled = refusal(503, "RequestLimitExceeded", "Request limit exceeded.").with("Retry-After", "7");
    let (error, asked) = failed(throttled);
    assert_eq!((error.kind, asked, error.retry_after_ms), (CloudErrorKind::Throttled, 1, Some(7000)));
    assert!(!error.leaves_open());
    let (error, asked) = failed(refusal(500, "InternalError", "An internal error has occurred"));
    assert_eq!((error.kind, asked), (CloudErrorKind::Unreachable, 1));
    assert!(error.leaves_open());
    let (error, asked) = failed(Reply::status(502, "<html>Bad Gateway</html>"));
    assert_eq!((error.kind, asked, error.code.as_deref()), (CloudErrorKind::Unreachable, 1, None));
    assert!(error.leaves_open());
}

#[test]
fn an_answer_that_cannot_be_read_leaves_open_what_was_done() {
    for body in ["<DeleteNetworkInterfaceResponse", "not XML"] {
        let recorder = Recorder::start();
        recorder.answer(Reply::ok(body));
        let assign = Mutation::Assign { eni: "eni-1".parse().unwrap(), count: 1, prefixes: 0 };
        let error = wait(recorder.aws().enis.mutate(&assign)).unwrap_err();
        assert!(error.leaves_open(), "{error}");
    }
}

#[test]
fn a_read_is_tried_again() {
    let recorder = Recorder::start();
    recorder.refuse(503, "RequestLimitExceeded", "Request limit exceeded.");
    recorder.refuse(500, "InternalError", "An internal error has occurred");
    recorder.answer_with("DescribeNetworkInterfaces", "<networkInterfaceSet/>");
    assert_eq!(wait(recorder.aws().enis.describe_enis(&scope())), Ok(Vec::new()));
    assert_eq!(recorder.take().len(), 3);
    let recorder = Recorder::start();
    for _ in 0..3 {
        recorder.refuse(503, "Unavailable", "The server is overloaded.");
    }
    let error = wait(recorder.aws().enis.describe_enis(&scope())).unwrap_err();
    assert_eq!((error.kind, recorder.take().len()), (CloudErrorKind::Unreachable, 3));
}

#[test]
fn an_ec2_that_is_not_there_is_unreachable_and_found_when_it_comes() {
    let gone = Server::start(|_| Reply::Hang);
    let url = gone.url();
    drop(gone);
    let recorder = Recorder::start();
    let aws = recorder.aws_at(&url);
    let error = wait(aws.enis.mutate(&delete())).unwrap_err();
    assert_eq!((error.kind, error.leaves_open()), (CloudErrorKind::Unreachable, true));
}

#[test]
fn without_metadata_there_is_no_region_and_the_next_call_looks_again() {
    let recorder = Recorder::start();
    recorder.imds().fail("placement/region", Reply::status(503, ""));
    let aws = recorder.aws();
    // Two runtimes one after the other would each close the other's connections.
    wait(async {
        let error = aws.enis.mutate(&delete()).await.unwrap_err();
        assert_eq!(
            (error.kind, error.call.as_str()),
            (CloudErrorKind::Unreachable, "GET /latest/meta-data/placement/region")
        );
        recorder.imds().mend();
        recorder.answer_with("DeleteNetworkInterface", "<return>true</return>");
        aws.enis.mutate(&delete()).await.unwrap();
    });
    assert_eq!(recorder.take().len(), 1);
}

#[test]
fn an_instance_without_a_role_is_told_so() {
    let recorder = Recorder::start();
    recorder.imds().remove("iam/security-credentials/");
    let error = wait(recorder.aws().enis.mutate(&delete())).unwrap_err();
    assert_eq!((error.kind, recorder.take().len()), (CloudErrorKind::Unauthorized, 0), "{error}");
}

#[test]
fn a_region_that_is_said_is_not_asked_for() {
    let recorder = Recorder::start();
    recorder.imds().remove("placement/region");
    let settings = Settings { region: Some("us-east-1".into()), ..recorder.settings() };
    recorder.answer_with("DeleteNetworkInterface", "<return>true</return>");
    wait(Aws::new(settings).unwrap().enis.mutate(&delete())).unwrap();
    assert!(!recorder.imds().asked().iter().any(|key| key == "placement/region"));
}
