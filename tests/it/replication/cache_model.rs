//! A model of the cache's protocol, checked in every interleaving.
//!
//! One subject on one replica: versions are committed and processed late, loads take time, entries are evicted, the
//! change log disconnects and reconnects. The model is the protocol of `src/replica/accounts.rs`, step by step where
//! steps can be interrupted. A change of that protocol starts with a change of this model.

use stateright::{Checker, Model, Property};

/// The mechanism that keeps old accounts from being served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// The service's protocol: an entry has the epoch from before its load, and a lock serializes the loads of one
    /// subject.
    EpochsAndLocks,
    /// A change removes the entry.
    Removal,
    /// An entry has the epoch at the end of its load.
    EpochAfterwards,
    /// Loads of one subject overlap.
    NoLocks,
}

/// The number of versions that are committed.
const VERSIONS: u8 = 3;

/// A load for a call that must be answered with version `need` or newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Read {
    need: u8,
    /// The epoch at the start of the load.
    epoch: u8,
    found: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    /// The version in Postgres.
    committed: u8,
    /// The version up to which changes were processed.
    processed: u8,
    connected: bool,
    epoch: u8,
    /// The entry: its epoch and its version.
    cache: Option<(u8, u8)>,
    reads: Vec<Read>,
    /// The newest version in an answer.
    answered: u8,
    /// Whether a call was answered with an older version than it was due.
    broken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Commit,
    Process,
    Disconnect,
    Connect,
    /// A call that accepts the cached account.
    Call,
    /// A call that requires a new load.
    CallForRead,
    ReadFinds(usize),
    ReadEnds(usize),
    ReadFails(usize),
    Evict,
}

impl State {
    /// The version that a call starting now is due: the newest one that was processed or answered.
    fn due(&self) -> u8 {
        self.processed.max(self.answered)
    }

    fn answer(&mut self, need: u8, version: u8) {
        self.broken |= version < need;
        self.answered = self.answered.max(version);
    }

    fn read(&mut self) {
        self.reads.push(Read { need: self.due(), epoch: self.epoch, found: None });
    }

    /// The version that is served from the cache.
    fn served(&self) -> Option<u8> {
        self.cache.filter(|(epoch, _)| *epoch == self.epoch).map(|(_, version)| version)
    }

    fn call(&mut self) {
        match self.served() {
            Some(served) => self.answer(self.due(), served),
            None => self.read(),
        }
    }

    fn is_quiet(&self) -> bool {
        self.connected && self.processed == self.committed && self.reads.is_empty()
    }
}

impl Protocol {
    fn process(self, state: &mut State) {
        state.processed += 1;
        if self == Self::Removal {
            state.cache = None;
        } else if state.served().is_none_or(|served| served < state.processed) {
            state.epoch += 1;
        }
    }

    fn end(self, state: &mut State, read: usize) {
        let Read { need, epoch, found } = state.reads.remove(read);
        let Some(version) = found else { return };
        let epoch = if self == Self::EpochAfterwards { state.epoch } else { epoch };
        state.cache = Some((epoch, version));
        state.answer(need, version);
    }

    /// The most concurrent loads.
    fn most_reads(self) -> usize {
        if self == Self::NoLocks { 2 } else { 1 }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            committed: 0,
            processed: 0,
            connected: true,
            epoch: 0,
            cache: None,
            reads: Vec::new(),
            answered: 0,
            broken: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        let mut may = |condition: bool, step| {
            if condition {
                actions.push(step);
            }
        };
        may(state.committed < VERSIONS, Step::Commit);
        may(state.connected && state.processed < state.committed, Step::Process);
        may(state.connected, Step::Disconnect);
        may(!state.connected, Step::Connect);
        let may_read = state.reads.len() < self.most_reads();
        may(may_read || state.served().is_some(), Step::Call);
        may(may_read, Step::CallForRead);
        for (i, read) in state.reads.iter().enumerate() {
            may(read.found.is_none(), Step::ReadFinds(i));
            may(read.found.is_none(), Step::ReadFails(i));
            may(read.found.is_some(), Step::ReadEnds(i));
        }
        if state.cache.is_some() {
            actions.push(Step::Evict);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Commit => state.committed += 1,
            Step::Process => self.process(&mut state),
            Step::Disconnect => state.connected = false,
            Step::Connect => state.connected = true,
            Step::Call => state.call(),
            Step::CallForRead => state.read(),
            Step::ReadFinds(read) => state.reads[read].found = Some(state.committed),
            Step::ReadEnds(read) => self.end(&mut state, read),
            Step::ReadFails(read) => drop(state.reads.remove(read)),
            Step::Evict => state.cache = None,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "no answer is older than a processed change or an earlier answer",
                |_, state: &State| !state.broken,
            ),
            Property::always("the cached account is current in quiet", |_, state: &State| {
                !state.is_quiet() || state.served().is_none_or(|served| served == state.committed)
            }),
        ]
    }
}

/// The properties that a protocol breaks.
fn broken(protocol: Protocol) -> Vec<&'static str> {
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    println!("{protocol:?}: {} states", checker.unique_state_count());
    let discoveries = checker.discoveries();
    for (name, path) in &discoveries {
        println!("  {name}: {:?}", path.clone().into_actions());
    }
    discoveries.into_keys().collect()
}

#[test]
fn no_interleaving_serves_an_account_older_than_a_processed_change() {
    assert!(broken(Protocol::EpochsAndLocks).is_empty());
}

#[test]
fn the_model_finds_the_faults_of_other_protocols() {
    for other in [Protocol::Removal, Protocol::EpochAfterwards, Protocol::NoLocks] {
        assert!(!broken(other).is_empty(), "{other:?}");
    }
}
