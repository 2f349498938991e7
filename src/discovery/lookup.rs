//! The questions that there are, what is known of each, and when to ask again.

use std::time::Duration;

use super::message::{Answer, LookupError, Question};
use crate::limits::{
    DNS_ATTEMPT_COUNT_MAX, DNS_BACKOFF_MAX, DNS_BACKOFF_MIN, DNS_MISSING_TTL_MAX, DNS_TTL_MAX, DNS_TTL_ZERO,
};
use crate::types::Time;

/// What is known of one question.
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) question: Question,
    pub(super) answer: Option<Answer>,
    pub(super) error: Option<LookupError>,
    /// Failures since the last answer.
    failure_count: u32,
    is_pending: bool,
    /// When to ask, or to ask again.
    due: Time,
    is_needed: bool,
}

impl Lookup {
    /// There is an answer, or no point in waiting for one.
    pub(super) fn is_settled(&self) -> bool {
        self.answer.is_some() || self.failure_count >= DNS_ATTEMPT_COUNT_MAX
    }
}

/// All questions that there are.
#[derive(Debug, Default)]
pub(super) struct Lookups(Vec<Lookup>);

impl Lookups {
    /// The next one to ask.
    pub(super) fn poll(&mut self, now: Time) -> Option<Question> {
        let lookup = self.0.iter_mut().find(|lookup| !lookup.is_pending && lookup.due <= now)?;
        lookup.is_pending = true;
        Some(lookup.question.clone())
    }

    pub(super) fn is_asking(&self) -> bool {
        self.0.iter().any(|lookup| lookup.is_pending)
    }

    pub(super) fn are_settled(&self) -> bool {
        self.0.iter().all(Lookup::is_settled)
    }

    /// Notes what has come of a question, and asks again when that is over, or a little later: `excess` parts of it. Returns
    /// whether anybody still wants to know.
    pub(super) fn take(
        &mut self,
        now: Time,
        question: &Question,
        answer: Result<Answer, LookupError>,
        excess: f64,
    ) -> bool {
        let Some(lookup) = self.0.iter_mut().find(|lookup| lookup.question == *question) else { return false };
        lookup.is_pending = false;
        let wait = match answer {
            Ok(answer) => {
                let wait = lifetime(&answer);
                (lookup.answer, lookup.error, lookup.failure_count) = (Some(answer), None, 0);
                wait
            }
            Err(error) => {
                let wait = backoff(lookup.failure_count);
                (lookup.error, lookup.failure_count) = (Some(error), lookup.failure_count.saturating_add(1));
                wait
            }
        };
        lookup.due = now.after(wait.mul_f64(1.0 + excess));
        true
    }

    /// What is known of a question, which is asked from now on if it was not.
    pub(super) fn need(&mut self, now: Time, question: Question) -> &Lookup {
        let place = self.0.iter().position(|lookup| lookup.question == question).unwrap_or_else(|| {
            let (answer, error) = (None, None);
            let lookup =
                Lookup { question, answer, error, failure_count: 0, is_pending: false, due: now, is_needed: true };
            self.0.push(lookup);
            self.0.len() - 1
        });
        self.0[place].is_needed = true;
        &self.0[place]
    }

    /// Forgets all questions that have not been needed since this was last called.
    pub(super) fn forget_others(&mut self) {
        self.0.retain(|lookup| lookup.is_needed);
        self.0.iter_mut().for_each(|lookup| lookup.is_needed = false);
    }
}

/// For how long an answer is taken to be true.
fn lifetime(answer: &Answer) -> Duration {
    let ttl_max = match answer {
        Answer::Found { .. } => DNS_TTL_MAX,
        Answer::Missing { .. } => DNS_MISSING_TTL_MAX,
    };
    let ttl = answer.ttl();
    if ttl.is_zero() { DNS_TTL_ZERO } else { ttl.min(ttl_max) }
}

/// How long to wait after so many failures before this one.
fn backoff(failure_count: u32) -> Duration {
    DNS_BACKOFF_MIN.saturating_mul(1_u32.checked_shl(failure_count).unwrap_or(u32::MAX)).min(DNS_BACKOFF_MAX)
}
