//! A contender in a process of its own: it says `ready`, begins when told, says `done`, and ends with its input.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, ensure};

use super::meter::{Meter, Spent};

/// A process that is ended when it is dropped.
pub(crate) struct Contender {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Contender {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Self> {
        let (contender, first) = Self::start_saying(command)?;
        ensure!(first == "ready", "{command:?} said {first:?}");
        Ok(contender)
    }

    /// Starts it and hands over its first line.
    pub(crate) fn start_saying(command: &mut Command) -> anyhow::Result<(Self, String)> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let mut contender = Self {
            child,
            input,
            output,
        };
        let first = contender.line()?;
        Ok((contender, first))
    }

    /// Lets it do its job; what that took.
    pub(crate) fn go(&mut self) -> anyhow::Result<Spent> {
        let meter = Meter::start(self.child.id())?;
        let input = self.input.as_mut().context("no input")?;
        input.write_all(b"go\n")?;
        input.flush()?;
        let said = self.line()?;
        ensure!(said == "done", "it said {said:?}");
        meter.stop()
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A contender's side: ready; returns when told to go.
pub(crate) fn ready() -> anyhow::Result<()> {
    println!("ready");
    let mut line = String::new();
    ensure!(
        std::io::stdin().read_line(&mut line)? > 0,
        "nobody is there"
    );
    Ok(())
}

/// A contender's side: done; returns when nobody needs it any more.
pub(crate) fn done() -> anyhow::Result<()> {
    println!("done");
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

/// This program again, in another role.
pub(crate) fn this_program(arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments);
    Ok(command)
}
