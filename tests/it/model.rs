//! The cache's protocol, and every interleaving of it.
//!
//! One subject on one replica: versions are committed and heard of late, loads and re-reads take time, entries are
//! evicted, the change log goes away and comes back. The model is the protocol of `src/replica/accounts.rs`, step by step
//! where steps can be interrupted. Who changes that protocol changes this model first.

use stateright::{Checker, Model, Property};

/// What keeps old accounts from being served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// An entry bears the epoch before it was read, and reads of one subject take turns: what the service does.
    EpochsAndTurns,
    /// A change removes the entry.
    Removal,
    /// An entry bears the epoch that the read ends in.
    EpochAfterwards,
    /// Reads of one subject overlap.
    NoTurns,
}

/// The most versions that are committed.
const VERSIONS: u8 = 3;

/// Reading the database for a call that may not be answered with less than `need`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Read {
    need: u8,
    /// The epoch in which it began.
    epoch: u8,
    found: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    /// The version that Postgres has.
    committed: u8,
    /// The version up to which changes were heard.
    heard: u8,
    connected: bool,
    epoch: u8,
    /// The entry: its epoch and its version.
    cache: Option<(u8, u8)>,
    reads: Vec<Read>,
    /// The newest version that any call was answered with.
    answered: u8,
    /// A call was answered with less than it was due.
    broken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Commit,
    Hear,
    Disconnect,
    Connect,
    /// A call that takes what is cached.
    Call,
    /// A call that wants the account read anew.
    CallForRead,
    ReadFinds(usize),
    ReadEnds(usize),
    ReadFails(usize),
    Evict,
}

impl State {
    /// What a call that begins now is due: what was heard, and what others were answered.
    fn due(&self) -> u8 {
        self.heard.max(self.answered)
    }

    fn answer(&mut self, need: u8, version: u8) {
        self.broken |= version < need;
        self.answered = self.answered.max(version);
    }

    fn read(&mut self) {
        self.reads.push(Read { need: self.due(), epoch: self.epoch, found: None });
    }

    /// The version that is served from the cache.
    fn known(&self) -> Option<u8> {
        self.cache.filter(|(epoch, _)| *epoch == self.epoch).map(|(_, version)| version)
    }

    fn call(&mut self) {
        match self.known() {
            Some(known) => self.answer(self.due(), known),
            None => self.read(),
        }
    }

    fn is_quiet(&self) -> bool {
        self.connected && self.heard == self.committed && self.reads.is_empty()
    }
}

impl Protocol {
    fn hear(self, state: &mut State) {
        state.heard += 1;
        if self == Self::Removal {
            state.cache = None;
        } else if state.known().is_none_or(|known| known < state.heard) {
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

    /// How many reads may be under way.
    fn most_reads(self) -> usize {
        if self == Self::NoTurns { 2 } else { 1 }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            committed: 0,
            heard: 0,
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
        may(state.connected && state.heard < state.committed, Step::Hear);
        may(state.connected, Step::Disconnect);
        may(!state.connected, Step::Connect);
        let turn = state.reads.len() < self.most_reads();
        may(turn || state.known().is_some(), Step::Call);
        may(turn, Step::CallForRead);
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
            Step::Hear => self.hear(&mut state),
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
                "no answer is older than what was heard or answered before",
                |_, state: &State| !state.broken,
            ),
            Property::always("what is known in quiet is current", |_, state: &State| {
                !state.is_quiet() || state.known().is_none_or(|known| known == state.committed)
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
fn no_interleaving_serves_an_account_that_a_change_overtook() {
    assert!(broken(Protocol::EpochsAndTurns).is_empty());
}

#[test]
fn the_model_finds_what_is_wrong_with_other_protocols() {
    for other in [Protocol::Removal, Protocol::EpochAfterwards, Protocol::NoTurns] {
        assert!(!broken(other).is_empty(), "{other:?}");
    }
}
