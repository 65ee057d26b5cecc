//! A load that h2load cannot make: about many subjects, on a schedule, or of deliveries. It runs in a single-threaded
//! process, and reports numbers.

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

/// The longest wait for responses after the end.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The interval at which a load that does not spin checks the schedule.
const TICK: Duration = Duration::from_millis(1);
/// The size of the read buffer, in bytes.
const BUFFER: usize = 64 * 1024;
/// The number of digits of a subject's number.
const DIGITS: usize = 26;

/// The plan of a load.
#[derive(Clone, Serialize, Deserialize)]
pub struct Plan {
    pub address: String,
    /// `package.Service/Method`.
    pub path: String,
    /// The value of `authorization`.
    pub key: String,
    pub connections: usize,
    /// The most open calls on each connection.
    pub streams: usize,
    pub seconds: f64,
    /// The message to send.
    pub body: Vec<u8>,
    pub subjects: Subjects,
    /// The prefix of every right response.
    pub right: Vec<u8>,
    /// The calls per second, independent of the responses; `None`: each response starts the next call.
    pub rate: Option<f64>,
    /// Spins until a call is due: only where no other process needs the core.
    pub spins: bool,
}

/// The subjects of the calls: the [`DIGITS`] at `at` of the body are replaced by the number of one of `count` subjects.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Subjects {
    pub at: usize,
    pub count: u64,
    /// Each subject once, in order; otherwise random ones for the duration of the plan.
    pub once: bool,
}

impl Subjects {
    /// Always sends the same message.
    pub const ALL_THE_SAME: Self = Self { at: usize::MAX, count: 1, once: false };
}

/// The result of a load.
#[derive(Serialize, Deserialize)]
pub struct Report {
    /// Calls that were due.
    pub due: u64,
    /// Calls with a right response.
    pub answered: u64,
    /// Calls rejected by the server.
    pub refused: u64,
    /// Calls that were due and not sent, because their connection had the maximum of open calls.
    pub held: u64,
    /// Calls without a response within the timeout after the end.
    pub lost: u64,
    /// The duration in which calls were made; `answered` counts the responses within it.
    pub seconds: f64,
    /// The microseconds from when a call was due until its right response.
    pub p50: f64,
    pub p99: f64,
}

impl Report {
    /// The right responses per second.
    pub fn rate(&self) -> f64 {
        as_f64(self.answered) / self.seconds
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
pub fn as_f64(count: u64) -> f64 {
    count as f64
}

/// Runs a load on its core.
pub fn run(plan: &Plan) -> anyhow::Result<Report> {
    let plan = serde_json::to_string(plan)?;
    let output = pinned(LOAD, env::current_exe()?)
        .args(["drive", &plan])
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "the load failed");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Runs a load in its process.
pub(super) async fn serve(plan: &str) -> anyhow::Result<()> {
    let plan: Rc<Plan> = Rc::new(serde_json::from_str(plan)?);
    let mut connections = Vec::new();
    for _ in 0..plan.connections {
        let io = TcpStream::connect(&plan.address).await?;
        io.set_nodelay(true)?;
        connections.push(io);
    }
    let (totals, began, local) = (Rc::default(), Instant::now(), LocalSet::new());
    for (number, io) in connections.into_iter().enumerate() {
        let connection = Connection::new(io, number, plan.clone(), began, Rc::clone(&totals));
        local.spawn_local(async move {
            let totals = connection.totals.clone();
            if let Err(error) = connection.drive().await {
                totals.borrow_mut().failed.get_or_insert(error);
            }
        });
    }
    local.await;
    let seconds = began.elapsed().as_secs_f64().min(plan.seconds);
    let report = totals.take().report(seconds)?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// The totals of all connections.
#[derive(Default)]
struct Totals {
    due: u64,
    answered: u64,
    refused: u64,
    held: u64,
    lost: u64,
    /// The times from when a call was due until its right response, in nanoseconds.
    took: Vec<u64>,
    failed: Option<anyhow::Error>,
}

impl Totals {
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
    totals: Rc<RefCell<Totals>>,
    body: Vec<u8>,
    rng: u64,
    /// The number of the connection.
    number: u64,
    /// The number of calls that were due so far.
    due: u64,
    began: Instant,
    end: Instant,
}

/// The header fields of a call.
fn fields(plan: &Plan) -> [(&str, &str); 5] {
    [
        (":path", &plan.path),
        (":authority", &plan.address),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("authorization", &plan.key),
    ]
}

impl Connection {
    fn new(
        io: TcpStream,
        number: usize,
        plan: Rc<Plan>,
        began: Instant,
        totals: Rc<RefCell<Totals>>,
    ) -> Self {
        let number = number as u64;
        Self {
            io,
            frames: Frames::new(fields(&plan), plan.right.clone()),
            totals,
            body: plan.body.clone(),
            rng: 0x9E37_79B9_7F4A_7C15 ^ (number << 32),
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
            } else if self.frames.open() == 0 || now > self.end + TIMEOUT {
                self.totals.borrow_mut().lost += self.frames.open() as u64;
                return Ok(());
            }
            self.write()?;
            self.wait().await?;
            self.read()?;
        }
    }

    /// Sends the calls that are due.
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
                self.totals.borrow_mut().due += 1;
                self.totals.borrow_mut().held += 1;
            }
        }
    }

    fn has_room(&self) -> bool {
        self.frames.open() < self.plan.streams && self.frames.takes(self.body.len())
    }

    fn call(&mut self, due: Instant) {
        let Subjects { at, count, once } = self.plan.subjects;
        let subject = if once { self.nth() } else { self.random() };
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
        self.totals.borrow_mut().due += 1;
    }

    /// The position of the next call among those of all connections.
    fn nth(&self) -> u64 {
        self.due * self.plan.connections as u64 + self.number
    }

    fn has_asked_all(&self) -> bool {
        self.plan.subjects.once && self.nth() >= self.plan.subjects.count
    }

    /// xorshift64*. Source: <https://doi.org/10.1145/2845077>
    fn random(&mut self) -> u64 {
        self.rng ^= self.rng >> 12;
        self.rng ^= self.rng << 25;
        self.rng ^= self.rng >> 27;
        self.rng.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
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
        let at_most = if self.plan.rate.is_some() { TICK } else { TIMEOUT };
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
        let mut totals = self.totals.borrow_mut();
        self.frames.parse(|due, is_right| totals.ended(due, is_right, now, end))
    }
}
