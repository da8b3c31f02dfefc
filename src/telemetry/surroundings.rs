//! Where stderr leads: a terminal, the journal, anything else.

use std::io::IsTerminal;

/// What decides how lines look when the settings leave it open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// `$JOURNAL_STREAM`: device and inode of the socket that systemd connected to the journal.
    pub journal_stream: Option<String>,
    /// Device and inode of stderr.
    pub stderr: Option<(u64, u64)>,
    /// Whether a person sees colours: on a terminal, unless `$NO_COLOR` is set.
    pub colours: bool,
}

impl Surroundings {
    /// Those of this process. Its environment comes in, as everywhere.
    pub fn of_process(env: impl Iterator<Item = (String, String)>) -> Self {
        let mut journal_stream = None;
        let mut no_color = false;
        for (name, value) in env {
            match name.as_str() {
                "JOURNAL_STREAM" => journal_stream = Some(value),
                "NO_COLOR" => no_color = !value.is_empty(),
                _ => {}
            }
        }
        let stderr = std::io::stderr();
        let found = rustix::fs::fstat(&stderr).ok();
        Self {
            journal_stream,
            stderr: found.map(|found| (found.st_dev, found.st_ino)),
            colours: stderr.is_terminal() && !no_color,
        }
    }

    /// Whether systemd connected stderr to the journal. The variable alone proves nothing: a child whose stderr was
    /// redirected inherits it.
    pub fn stderr_is_the_journal(&self) -> bool {
        let stream = self.journal_stream.as_deref().and_then(|stream| {
            let (device, inode) = stream.split_once(':')?;
            Some((device.parse().ok()?, inode.parse().ok()?))
        });
        stream.is_some() && stream == self.stderr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stderr_is_the_journal_only_where_device_and_inode_agree() {
        let cases = [
            (Some("8:12345"), Some((8, 12345)), true),
            (Some("8:12345"), Some((8, 999)), false),
            (Some("9:12345"), Some((8, 12345)), false),
            (Some("8:12345"), None, false),
            (Some("nonsense"), Some((8, 12345)), false),
            (Some(""), None, false),
            (None, Some((8, 12345)), false),
            (None, None, false),
        ];
        for (stream, stderr, expected) in cases {
            let found = Surroundings {
                journal_stream: stream.map(str::to_owned),
                stderr,
                colours: false,
            };
            assert_eq!(found.stderr_is_the_journal(), expected, "{found:?}");
        }
    }

    #[test]
    fn the_process_knows_its_stderr() {
        let variables = [("JOURNAL_STREAM", "1:2"), ("NO_COLOR", "1")];
        let env = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let found = Surroundings::of_process(env.into_iter());
        assert_eq!(found.journal_stream.as_deref(), Some("1:2"));
        assert!(found.stderr.is_some());
        assert!(!found.colours);
    }
}
