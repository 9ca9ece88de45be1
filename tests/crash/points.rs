//! ipamd is killed at every step of ADD and DEL: before, in and after each commit, before and after each netlink send,
//! at each completion, before and after the reply; once with nobody there, once with a second ipamd that waits, once
//! with one that takes over in the middle.
//!
//! Every round is under traffic: containers with open connections, and an ADD and a DEL of others beside the one whose
//! steps are counted.

use crate::crowd::{Crowd, is_ready, sound};
use eni_tests::cni::Call;
use eni_tests::node::{Node, Options};
use eni_tests::sandbox::Sandbox;
use eni_tests::wait;

/// The steps, and how often each is passed.
const STEPS: &[(&str, u32)] = &[
    ("request", 1),
    ("commit.before", 2),
    ("commit.middle", 2),
    ("commit.after", 2),
    // An ADD sends four times; a DEL once, and its reaper three times or more.
    ("send.before", 4),
    ("send.after", 4),
    ("completion", 2),
    ("reply.before", 1),
    ("reply.after", 1),
];
/// The addresses of the node's one ENI.
const TOTAL: usize = 29;

/// What comes after the one that is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Next {
    /// Started when the first is dead.
    Restarted,
    /// Started before: it waits for the first one's end.
    Waiting,
    /// Started in the middle, with --take-over: the first may hand over before it comes to the step.
    TakingOver,
}

struct Round {
    verb: &'static str,
    step: &'static str,
    count: u32,
    container: String,
}

impl Round {
    fn all() -> Vec<Round> {
        let mut rounds = Vec::new();
        for verb in ["ADD", "DEL"] {
            for (step, most) in STEPS {
                for count in 1..=*most {
                    let container = format!("c{}", rounds.len());
                    rounds.push(Round { verb, step, count, container });
                }
            }
        }
        rounds
    }

    /// What tells ipamd where it is to be killed.
    fn plan(&self) -> String {
        format!("{} {} {} {}", self.verb.to_lowercase(), self.container, self.step, self.count)
    }

    fn name(&self, next: Next) -> String {
        format!("{next:?}: {}", self.plan())
    }
}

/// Containers that come and go beside.
struct Beside {
    sandboxes: [Sandbox; 2],
}

/// One round: ipamd runs and knows where it is to be killed; the next one is told the same for `after`.
fn round(node: &mut Node, own: &Sandbox, beside: &Beside, round: &Round, after: Option<&Round>, next: Next) {
    let name = round.name(next);
    let id = &round.container;
    let (comes, goes) = (format!("{id}-comes"), format!("{id}-goes"));
    let [comes_in, goes_from] = &beside.sandboxes;
    let call =
        |verb: &str, id: &str, sandbox: &Sandbox| Call::new(node, verb).of(id, &sandbox.path()).pod(id);
    call("ADD", &goes, goes_from).ok();
    if round.verb == "DEL" {
        call("ADD", id, own).ok();
    }
    let plan = after.map(Round::plan);
    let plan: Vec<&str> = plan.iter().flat_map(|plan| ["--fail-at", plan.as_str()]).collect();
    let running = [call(round.verb, id, own), call("ADD", &comes, comes_in), call("DEL", &goes, goes_from)];
    let mut first = match next {
        Next::Waiting => node.start_another(&plan),
        Next::TakingOver | Next::Restarted => None,
    };
    let running: Vec<_> = running.iter().map(Call::start).collect();
    if next == Next::TakingOver {
        let words: Vec<&str> = ["--take-over"].into_iter().chain(plan.iter().copied()).collect();
        first = node.start_another(&words);
    }
    let mut ended = None;
    wait::until(&format!("{name}: it is killed"), || {
        ended = match &mut first {
            Some(first) => first.try_wait().unwrap().map(|status| status.code()),
            None => node.ipamd_ended(),
        };
        ended.is_some()
    });
    if next != Next::TakingOver {
        assert_eq!(ended, Some(None), "{name}: it ended by the signal");
    }
    if next == Next::Restarted {
        node.start_another(&plan);
    }
    for (what, running) in ["its own", "another's ADD", "another's DEL"].iter().zip(running) {
        let answer = running.end();
        assert_eq!(answer.code, Some(0), "{name}: {what}: {}{}", answer.stdout, node.log());
    }
    wait::until(&format!("{name}: the next one serves"), || is_ready(node));
    // Asked again, each is answered the same.
    let again = Call::new(node, round.verb).of(id, &own.path()).pod(id).ok();
    let (address, has) = (comes_in.address("eth0"), own.address("eth0"));
    match round.verb {
        "ADD" => assert_eq!(has, Some(again.address()), "{name}"),
        _ => wait::until(&format!("{name}: nothing of a deleted one is there"), || {
            own.address("eth0").is_none()
        }),
    }
    assert!(address.is_some() && address != has, "{name}");
    sound(node, TOTAL, &name);
    for (id, sandbox) in [(id, own), (&comes, comes_in)] {
        Call::new(node, "DEL").of(id, &sandbox.path()).ok();
    }
}

fn all_rounds(next: Next) {
    let options = Options { secondary: TOTAL as u32, log: "info", ..Options::default() };
    let mut node = Node::without_ipamd(&options);
    let rounds = Round::all();
    assert!(rounds.len() * 3 > 100);
    node.start_another(&["--fail-at", &rounds[0].plan()]);
    node.wait_ready();
    let crowd = Crowd::new(&node, 3);
    let (own, beside) = (Sandbox::new(), Beside { sandboxes: [Sandbox::new(), Sandbox::new()] });
    for (n, this) in rounds.iter().enumerate() {
        round(&mut node, &own, &beside, this, rounds.get(n + 1), next);
        crowd.talks(&this.name(next));
    }
    crowd.recorded(&node, "after all");
    sound(&node, TOTAL, "after all");
    assert_eq!(node.drops("v1"), 0);
}

#[test]
fn crash_ipamd_killed_at_every_step_and_started_again() {
    all_rounds(Next::Restarted);
}

#[test]
fn crash_ipamd_killed_at_every_step_while_another_waits() {
    all_rounds(Next::Waiting);
}

#[test]
fn crash_ipamd_killed_at_every_step_while_another_takes_over() {
    all_rounds(Next::TakingOver);
}
