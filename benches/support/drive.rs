//! A load that h2load cannot make: about many subjects, on a schedule, or of deliveries. It runs in a process of its
//! own, in one thread, and tells what it saw in numbers.

use super::{LOAD, frames::Frames, pinned};
use anyhow::{bail, ensure};
use serde::{Deserialize, Serialize};
use std::{
    cell::RefCell,
    env, io,
    process::Stdio,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::{
    io::Interest,
    net::TcpStream,
    task::{LocalSet, yield_now},
    time::timeout,
};

/// How long answers are waited for after the end.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the schedule is looked at by who does not spin.
const TICK: Duration = Duration::from_millis(1);
/// How much is read at once.
const BUFFER: usize = 64 * 1024;
/// The digits of a subject's number.
const DIGITS: usize = 26;

/// What to ask, and how.
#[derive(Clone, Serialize, Deserialize)]
pub struct Plan {
    pub address: String,
    /// `package.Service/Method`.
    pub path: String,
    /// What is presented in `authorization`.
    pub key: String,
    pub connections: usize,
    /// The most calls at once on each.
    pub streams: usize,
    pub seconds: f64,
    /// What is sent.
    pub body: Vec<u8>,
    pub subjects: Subjects,
    /// What every right answer begins with.
    pub right: Vec<u8>,
    /// Calls a second, whatever the answers do; `None`: the next call follows the last answer.
    pub rate: Option<f64>,
    /// Waits for the schedule by looking at the clock: only where no one else needs the core.
    pub spins: bool,
}

/// Whom the calls are about: the [`DIGITS`] at `at` of the body are replaced by the number of one of `count` subjects.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Subjects {
    pub at: usize,
    pub count: u64,
    /// Each of them once, in order; else at random, for as long as the plan says.
    pub once: bool,
}

impl Subjects {
    /// What is sent is always the same.
    pub const ALL_THE_SAME: Self = Self { at: usize::MAX, count: 1, once: false };
}

/// What came of it.
#[derive(Serialize, Deserialize)]
pub struct Report {
    /// Calls that were due.
    pub due: u64,
    /// Calls answered right.
    pub answered: u64,
    /// Calls refused by the server.
    pub refused: u64,
    /// Calls that were due while as many as allowed were open on their connection: not sent.
    pub held: u64,
    /// Calls without an answer a while after the end.
    pub lost: u64,
    /// How long calls were made; `answered` counts what was answered within it.
    pub seconds: f64,
    /// Microseconds from when a call was due to its right answer.
    pub p50: f64,
    pub p99: f64,
}

impl Report {
    /// Right answers a second.
    pub fn rate(&self) -> f64 {
        as_f64(self.answered) / self.seconds
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
pub fn as_f64(count: u64) -> f64 {
    count as f64
}

/// Runs a load from its core.
pub fn run(plan: &Plan) -> anyhow::Result<Report> {
    let plan = serde_json::to_string(plan)?;
    let output = pinned(LOAD, env::current_exe()?)
        .args(["drive", &plan])
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "the load failed");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The process of a load.
pub(super) async fn serve(plan: &str) -> anyhow::Result<()> {
    let plan: Rc<Plan> = Rc::new(serde_json::from_str(plan)?);
    let mut connections = Vec::new();
    for _ in 0..plan.connections {
        let io = TcpStream::connect(&plan.address).await?;
        io.set_nodelay(true)?;
        connections.push(io);
    }
    let (seen, began, local) = (Rc::default(), Instant::now(), LocalSet::new());
    for (number, io) in connections.into_iter().enumerate() {
        let connection = Connection::new(io, number, plan.clone(), began, Rc::clone(&seen));
        local.spawn_local(async move {
            let seen = connection.seen.clone();
            if let Err(error) = connection.drive().await {
                seen.borrow_mut().failed.get_or_insert(error);
            }
        });
    }
    local.await;
    let seconds = began.elapsed().as_secs_f64().min(plan.seconds);
    let report = seen.take().report(seconds)?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// What all connections have seen.
#[derive(Default)]
struct Seen {
    due: u64,
    answered: u64,
    refused: u64,
    held: u64,
    lost: u64,
    /// From when a call was due to its right answer, in nanoseconds.
    took: Vec<u64>,
    failed: Option<anyhow::Error>,
}

impl Seen {
    fn ended(&mut self, due: Instant, is_right: bool, now: Instant, end: Instant) {
        if is_right {
            self.answered += u64::from(now <= end);
            let took = now.duration_since(due).as_nanos();
            self.took.push(took.try_into().unwrap_or(u64::MAX));
        } else {
            self.refused += 1;
        }
    }

    fn report(self, seconds: f64) -> anyhow::Result<Report> {
        let Self { due, answered, refused, held, lost, mut took, failed } = self;
        if let Some(error) = failed {
            return Err(error);
        }
        took.sort_unstable();
        let at = |part: usize| took.get(took.len() * part / 100).map_or(0.0, |t| as_f64(*t) / 1e3);
        let (p50, p99) = (at(50), at(99));
        Ok(Report { due, answered, refused, held, lost, seconds, p50, p99 })
    }
}

struct Connection {
    io: TcpStream,
    frames: Frames,
    plan: Rc<Plan>,
    seen: Rc<RefCell<Seen>>,
    body: Vec<u8>,
    dice: u64,
    /// Which of the connections it is.
    number: u64,
    /// How many calls were due so far.
    due: u64,
    began: Instant,
    end: Instant,
}

impl Connection {
    fn new(
        io: TcpStream,
        number: usize,
        plan: Rc<Plan>,
        began: Instant,
        seen: Rc<RefCell<Seen>>,
    ) -> Self {
        let number = number as u64;
        Self {
            io,
            frames: Frames::new(&plan),
            seen,
            body: plan.body.clone(),
            dice: 0x9E37_79B9_7F4A_7C15 ^ (number << 32),
            number,
            due: 0,
            began,
            end: began + Duration::from_secs_f64(plan.seconds),
            plan,
        }
    }

    async fn drive(mut self) -> anyhow::Result<()> {
        loop {
            let now = Instant::now();
            if now < self.end && !self.has_asked_all() {
                self.issue(now);
            } else if self.frames.open() == 0 || now > self.end + PATIENCE {
                self.seen.borrow_mut().lost += self.frames.open() as u64;
                return Ok(());
            }
            self.write()?;
            self.wait().await?;
            self.read()?;
        }
    }

    /// Makes the calls that are due.
    fn issue(&mut self, now: Instant) {
        let Some(rate) = self.plan.rate else {
            while self.has_room() && !self.has_asked_all() {
                self.call(now);
            }
            return;
        };
        loop {
            let due = self.began + Duration::from_secs_f64(as_f64(self.nth()) / rate);
            if due > now {
                return;
            }
            if self.has_room() {
                self.call(due);
            } else {
                self.due += 1;
                self.seen.borrow_mut().due += 1;
                self.seen.borrow_mut().held += 1;
            }
        }
    }

    fn has_room(&self) -> bool {
        self.frames.open() < self.plan.streams && self.frames.takes(self.body.len())
    }

    fn call(&mut self, due: Instant) {
        let Subjects { at, count, once } = self.plan.subjects;
        let subject = if once { self.nth() } else { self.roll() };
        if let Some(digits) =
            self.body.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<DIGITS>())
        {
            let mut left = subject % count;
            for digit in digits.iter_mut().rev() {
                *digit = b'0' + u8::try_from(left % 10).expect("a digit");
                left /= 10;
            }
        }
        self.frames.call(&self.body, due);
        self.due += 1;
        self.seen.borrow_mut().due += 1;
    }

    /// The place of the next call among those of all connections.
    fn nth(&self) -> u64 {
        self.due * self.plan.connections as u64 + self.number
    }

    fn has_asked_all(&self) -> bool {
        self.plan.subjects.once && self.nth() >= self.plan.subjects.count
    }

    /// xorshift64*. Source: <https://doi.org/10.1145/2845077>
    fn roll(&mut self) -> u64 {
        self.dice ^= self.dice >> 12;
        self.dice ^= self.dice << 25;
        self.dice ^= self.dice >> 27;
        self.dice.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.frames.out.is_empty() {
            match self.io.try_write(&self.frames.out) {
                Ok(written) => drop(self.frames.out.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn wait(&self) -> io::Result<()> {
        if self.plan.spins {
            yield_now().await;
            return Ok(());
        }
        let interest = if self.frames.out.is_empty() {
            Interest::READABLE
        } else {
            Interest::READABLE | Interest::WRITABLE
        };
        let at_most = if self.plan.rate.is_some() { TICK } else { PATIENCE };
        timeout(at_most, self.io.ready(interest)).await.map_or(Ok(()), |ready| ready.map(drop))
    }

    fn read(&mut self) -> anyhow::Result<()> {
        loop {
            self.frames.read.reserve(BUFFER);
            match self.io.try_read_buf(&mut self.frames.read) {
                Ok(0) => bail!("the server has closed a connection"),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        let (now, end) = (Instant::now(), self.end);
        let mut seen = self.seen.borrow_mut();
        self.frames.understand(|due, is_right| seen.ended(due, is_right, now, end))
    }
}
