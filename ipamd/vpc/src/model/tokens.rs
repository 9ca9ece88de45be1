//! Client tokens of CreateNetworkInterface.
//!
//! Owns which token made which ENI with which parameters ("Ensuring idempotency in Amazon EC2 API requests": the same
//! token with the same parameters answers what the first call answered and makes nothing, with others it is refused;
//! a call that was refused uses no token up).

use super::Extra;
use ipamd_core::cloud::{EniObservation, Mutation};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// EC2 forgets a token after a day at the earliest; here the oldest of so many goes.
const KEPT: usize = 1_000;

/// The tokens that were used.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Tokens(VecDeque<(Mutation, Extra, EniObservation)>);

/// What is known of a token.
pub(super) enum Known<'a> {
    /// Nothing.
    New,
    /// It made this ENI, as it was then.
    Made(&'a EniObservation),
    /// It came with other parameters.
    Other,
}

impl Tokens {
    /// What is known of the token of a create; an empty one is no token.
    pub(super) fn find(&self, create: &Mutation, extra: &Extra) -> Known<'_> {
        let Mutation::Create { token: wanted, .. } = create else { return Known::New };
        if wanted.is_empty() {
            return Known::New;
        }
        let same = |used: &Mutation| matches!(used, Mutation::Create { token, .. } if token == wanted);
        match self.0.iter().find(|(used, _, _)| same(used)) {
            None => Known::New,
            Some((used, with, made)) if used == create && with == extra => Known::Made(made),
            Some(_) => Known::Other,
        }
    }

    /// Remembers what a create made.
    pub(super) fn keep(&mut self, create: &Mutation, extra: &Extra, made: &EniObservation) {
        self.0.push_back((create.clone(), extra.clone(), made.clone()));
        if self.0.len() > KEPT {
            self.0.pop_front();
        }
    }
}
