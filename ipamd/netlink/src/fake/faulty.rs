//! A kernel that fails when it is told to.
//!
//! Owns which call fails and how. What a fault leaves behind is what the running kernel would leave: a failing message
//! in a batch does not stop the later ones of it. Does not decide when: a closure does.

use super::{FakeKernel, WireMessage};
use eni_proto::ids::NetnsCookie;
use ipamd_core::kernel::{
    AttachmentView, HostKernel, HostStep, HostStepError, HostView, LookSpec, ReapLink, Reaped, UnwireSpec,
    WireError, WireSpec, WireStep,
};

/// A call, as the closure sees it.
#[derive(Debug, Clone, Copy)]
pub enum Call<'a> {
    /// [`HostKernel::wire`].
    Wire(&'a WireSpec),
    /// [`HostKernel::unwire`].
    Unwire(&'a UnwireSpec),
    /// [`HostKernel::reap`].
    Reap(&'a [ReapLink]),
    /// [`HostKernel::apply`], asked for the call as a whole.
    Apply(&'a [HostStep]),
    /// [`HostKernel::observe`].
    Observe,
    /// [`HostKernel::look_at`].
    Look(&'a LookSpec),
}

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Not at all.
    None,
    /// It is refused and nothing happens.
    Refused,
    /// It happens, and its answer is lost: reported as failed.
    Lost,
    /// A wire whose one message the kernel refuses; for other calls the same as `Refused`.
    At(WireMessage),
}

/// A kernel whose wire can end half-made.
pub trait HalfWire: HostKernel {
    /// A wire during which the kernel refuses one message. An error that comes before that message comes first.
    fn wire_failing_at(
        &mut self,
        spec: &WireSpec,
        sandbox: &Self::Sandbox,
        failing: WireMessage,
    ) -> Result<(), WireError>;
}

impl HalfWire for FakeKernel {
    fn wire_failing_at(
        &mut self,
        spec: &WireSpec,
        sandbox: &NetnsCookie,
        failing: WireMessage,
    ) -> Result<(), WireError> {
        self.wire_failing(spec, *sandbox, Some(failing))
    }
}

/// A kernel and the closure that decides, per call, how it goes wrong.
#[derive(Debug, Clone)]
pub struct Faulty<K, D> {
    /// The kernel beneath: to be looked at, and to be changed from outside.
    pub kernel: K,
    decide: D,
}

impl<K: HalfWire, D: FnMut(Call<'_>) -> Fault> Faulty<K, D> {
    /// A kernel whose calls `decide` is asked about.
    pub fn new(kernel: K, decide: D) -> Self {
        Faulty { kernel, decide }
    }
}

/// A decision for [`Faulty::new`]: the call number `nth` (from 0) goes wrong as `fault` says, all others do not.
pub fn nth(nth: usize, fault: Fault) -> impl FnMut(Call<'_>) -> Fault + Clone {
    let mut seen = 0;
    move |_| {
        seen += 1;
        if seen == nth + 1 { fault } else { Fault::None }
    }
}

fn cause() -> String {
    "ENOBUFS (a fault was asked for)".to_owned()
}

fn failed(step: &str) -> HostStepError {
    HostStepError { index: None, step: step.to_owned(), cause: cause(), gone: false }
}

impl<K: HalfWire, D: FnMut(Call<'_>) -> Fault> HostKernel for Faulty<K, D> {
    type Sandbox = K::Sandbox;

    fn wire(&mut self, spec: &WireSpec, sandbox: &Self::Sandbox) -> Result<(), WireError> {
        let refused =
            |step, made| Err(WireError::Refused { step, errno: libc::ENOBUFS, text: cause(), made });
        match (self.decide)(Call::Wire(spec)) {
            Fault::None => self.kernel.wire(spec, sandbox),
            Fault::Refused => refused(WireStep::Create, false),
            Fault::Lost => self.kernel.wire(spec, sandbox).and_then(|()| refused(WireStep::HostBatch, true)),
            Fault::At(message) => self.kernel.wire_failing_at(spec, sandbox, message),
        }
    }

    fn unwire(&mut self, spec: &UnwireSpec) -> Result<(), HostStepError> {
        let error = || Err(failed(&format!("take link {} off", spec.ifindex)));
        match (self.decide)(Call::Unwire(spec)) {
            Fault::None => self.kernel.unwire(spec),
            Fault::Lost => self.kernel.unwire(spec).and_then(|()| error()),
            Fault::Refused | Fault::At(_) => error(),
        }
    }

    fn reap(&mut self, links: &[ReapLink]) -> Reaped {
        let kept = || links.iter().map(|link| (link.ifindex, cause())).collect();
        match (self.decide)(Call::Reap(links)) {
            Fault::None => self.kernel.reap(links),
            Fault::Lost => {
                self.kernel.reap(links);
                Reaped { gone: Vec::new(), kept: kept() }
            }
            Fault::Refused | Fault::At(_) => Reaped { gone: Vec::new(), kept: kept() },
        }
    }

    fn apply(&mut self, steps: &[HostStep]) -> Vec<HostStepError> {
        let one =
            |(index, step)| HostStepError { index: Some(index), ..failed(&crate::ours::describe(step)) };
        let all = || steps.iter().enumerate().map(one).collect();
        match (self.decide)(Call::Apply(steps)) {
            Fault::None => self.kernel.apply(steps),
            Fault::Lost => {
                self.kernel.apply(steps);
                all()
            }
            Fault::Refused | Fault::At(_) => all(),
        }
    }

    fn look_at(&mut self, spec: &LookSpec, sandbox: &Self::Sandbox) -> Result<AttachmentView, HostStepError> {
        match (self.decide)(Call::Look(spec)) {
            Fault::None => self.kernel.look_at(spec, sandbox),
            _ => Err(failed("look at an attachment")),
        }
    }

    fn observe(&mut self) -> Result<HostView, HostStepError> {
        match (self.decide)(Call::Observe) {
            Fault::None => self.kernel.observe(),
            _ => Err(failed("look at the host")),
        }
    }
}
