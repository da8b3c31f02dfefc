//! The bench's command line.

use std::str::FromStr;
use std::time::Duration;

use super::crowd::Crowd;

pub(crate) const HELP: &str = "\
cargo bench --bench cadence -- [MODE] [OPTIONS]

modes (default: the four crowds and their bounds)
  --month N         a month of N messages on --budget calls (default 5000); 0: a series of them
                    --usual N: so many a month are known to be usual; --day N: the first is sent on this day, from 0
  --change          a crowd whose habits change in mid-run; --daily N: so many messages a day (default 100)
  --rhythm          a crowd that begins to sleep at night in mid-run, and ends to
  --solving         what a policy costs to solve and to keep
  --pushed          a month of 1,000 messages to persons: no read pushed, all of them, a tenth of them lost
  --groups          groups of 50 readers, with and without expected_readers
  any crowd option  that one crowd

the crowd
  --median MINUTES --sigma S     one log-normal part
  --part SHARE:MINUTES:S         one of several; repeat
  --never SHARE                  readers that never read (default 0.15)
  --readers N                    readers a message (default 1)
  --unknown                      expected_readers is not given
  --quiet FROM-TO                hours (UTC) in which nobody reads
  --weekends                     nobody reads on Saturdays and Sundays (UTC)
  --sends FROM-TO                hours (UTC) in which messages are sent

the run
  --target CALLS    calls a message (default 8 and 16)
  --messages N      measured (default 20000)
  --lessons N       learned from before (default 2000)
  --seed N          the first seed (default 1)
  --seeds N         how many, one after the other (default 5)
";

/// What to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Bounds,
    Crowd,
    Month(u64),
    Change,
    Groups,
    Rhythm,
    Solving,
    Pushed,
}

/// How to run it.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) mode: Mode,
    pub(crate) crowd: Crowd,
    pub(crate) targets: Vec<f64>,
    pub(crate) messages: u64,
    pub(crate) lessons: u64,
    pub(crate) seed: u64,
    pub(crate) seeds: u64,
    pub(crate) budget: u64,
    pub(crate) usual: Option<f64>,
    pub(crate) day: u32,
    pub(crate) within: Option<Duration>,
    pub(crate) daily: u32,
}

impl Options {
    /// `None` where help was asked for; an error says what is wrong.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut options = Self {
            mode: Mode::Bounds,
            crowd: Crowd::log_normal(5.0, 1.8, 0.15),
            targets: vec![8.0, 16.0],
            messages: 20_000,
            lessons: 2_000,
            seed: 1,
            seeds: 5,
            budget: 5_000,
            usual: None,
            day: 0,
            within: None,
            daily: 100,
        };
        let (mut median, mut sigma, mut parts) = (5.0, 1.8, vec![]);
        let mut arguments = arguments;
        while let Some(name) = arguments.next() {
            let name = name.as_str();
            let mut next = || {
                arguments
                    .next()
                    .ok_or(format!("{name} needs a value\n\n{HELP}"))
            };
            let crowd = &mut options.crowd;
            match name {
                // What cargo itself hands over.
                "--bench" => {}
                "--help" | "-h" => return Ok(None),
                "--month" => options.mode = Mode::Month(read(name, &next()?)?),
                "--change" => options.mode = Mode::Change,
                "--rhythm" => options.mode = Mode::Rhythm,
                "--solving" => options.mode = Mode::Solving,
                "--groups" => options.mode = Mode::Groups,
                "--pushed" => options.mode = Mode::Pushed,
                "--target" => options.targets = vec![read(name, &next()?)?],
                "--messages" => options.messages = read(name, &next()?)?,
                "--lessons" => options.lessons = read(name, &next()?)?,
                "--seed" => options.seed = read(name, &next()?)?,
                "--seeds" => options.seeds = read(name, &next()?)?,
                "--usual" => options.usual = Some(read(name, &next()?)?),
                "--day" => options.day = read::<u32>(name, &next()?)?.min(29),
                "--within" => {
                    let hours: f64 = read(name, &next()?)?;
                    options.within = Duration::try_from_secs_f64(hours * 3_600.0).ok();
                }
                "--daily" => options.daily = read::<u32>(name, &next()?)?.max(1),
                "--budget" => options.budget = read(name, &next()?)?,
                "--median" | "--sigma" | "--part" | "--never" | "--readers" | "--unknown"
                | "--quiet" | "--weekends" | "--sends" => {
                    if options.mode == Mode::Bounds {
                        options.mode = Mode::Crowd;
                    }
                    match name {
                        "--median" => median = read(name, &next()?)?,
                        "--sigma" => sigma = read(name, &next()?)?,
                        "--part" => parts.push(part(&next()?)?),
                        "--never" => crowd.never = read(name, &next()?)?,
                        "--readers" => crowd.readers = read(name, &next()?)?,
                        "--unknown" => crowd.known = false,
                        "--weekends" => crowd.weekends = true,
                        "--sends" => crowd.sends = hours(name, &next()?)?,
                        _ => crowd.quiet = Some(hours(name, &next()?)?),
                    }
                }
                _ => return Err(format!("{name} is not known here\n\n{HELP}")),
            }
        }
        if parts.is_empty() {
            parts.push((1.0, median * 60.0, sigma));
        }
        let shares: f64 = parts.iter().map(|(share, _, _)| share).sum();
        if (shares - 1.0).abs() > 1e-6 {
            return Err(format!("the shares of --part make {shares}, not 1"));
        }
        let crowd = &mut options.crowd;
        crowd.parts = parts;
        crowd.name = format!(
            "{:?}, {:.0} % never, {} readers",
            crowd.parts,
            crowd.never * 100.0,
            crowd.readers
        );
        Ok(Some(options))
    }
}

fn read<T: FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{name}: {text:?} is not possible here\n\n{HELP}"))
}

fn part(text: &str) -> Result<(f64, f64, f64), String> {
    match text.split(':').collect::<Vec<_>>()[..] {
        [share, minutes, sigma] => Ok((
            read("--part", share)?,
            60.0 * read::<f64>("--part", minutes)?,
            read("--part", sigma)?,
        )),
        _ => Err(format!("--part wants SHARE:MINUTES:SIGMA, not {text:?}")),
    }
}

fn hours(name: &str, text: &str) -> Result<(u32, u32), String> {
    let (from, to) = text
        .split_once('-')
        .ok_or(format!("{name} wants FROM-TO, not {text:?}"))?;
    let (from, to) = (read(name, from)?, read(name, to)?);
    if from > 24 || to > 24 {
        return Err(format!("{name} wants hours from 0 to 24, not {text:?}"));
    }
    Ok((from, to))
}
