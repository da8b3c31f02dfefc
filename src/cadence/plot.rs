//! The read curve and the hours of a week as pictures of letters, for `status` and `demo`.

use std::fmt::Write as _;
use std::time::Duration;

/// Columns between the axes.
const WIDTH: u32 = 56;
/// Lines between the axes.
const HEIGHT: u32 = 8;
/// Ages that are easy to say, in milliseconds.
const TICKS: [(f64, &str); 15] = [
    (1.0, "1ms"),
    (10.0, "10ms"),
    (100.0, "100ms"),
    (1_000.0, "1s"),
    (10_000.0, "10s"),
    (60_000.0, "1m"),
    (600_000.0, "10m"),
    (3_600_000.0, "1h"),
    (21_600_000.0, "6h"),
    (86_400_000.0, "24h"),
    (259_200_000.0, "3d"),
    (604_800_000.0, "7d"),
    (2_592_000_000.0, "30d"),
    (7_776_000_000.0, "90d"),
    (31_536_000_000.0, "1y"),
];
/// How many times longer than the left end of the axis a key's life is: from a second to a day, about.
const SPAN: f64 = 86_400.0;

/// Draws the share of readers that have read by an age, over the logarithm of age up to `lifetime`. Lines end in `\n`.
pub fn read_curve(share_read_by: impl Fn(Duration) -> f64, lifetime: Duration) -> String {
    let life = lifetime.as_secs_f64().max(1e-3);
    let age_at = |column: u32| life * SPAN.powf(f64::from(column) / f64::from(WIDTH - 1) - 1.0);
    let shares: Vec<f64> = (0..WIDTH)
        .map(|column| share_read_by(Duration::from_secs_f64(age_at(column))).clamp(0.0, 1.0))
        .collect();
    let mut plot = String::new();
    for line in (0..HEIGHT).rev() {
        let (floor, ceiling) = (share_of(line), share_of(line + 1));
        let label = match line {
            _ if line + 1 == HEIGHT => "100%",
            _ if line + 1 == HEIGHT / 2 => " 50%",
            _ => "    ",
        };
        let cells: String = shares
            .iter()
            .map(|share| cell(*share, floor, ceiling))
            .collect();
        // Writing to a String cannot fail.
        let _ = writeln!(plot, "{label} |{}", cells.trim_end());
    }
    let (mut marks, mut labels) = (String::new(), String::new());
    for column in 0..WIDTH {
        let from = age_at(column) * 1_000.0;
        let to = age_at(column + 1) * 1_000.0;
        // A tick on the very end of the life may be off by a rounding error.
        let tick = TICKS.iter().find(|(ms, _)| {
            let ms = ms * (1.0 + 1e-9);
            from <= ms && ms < to
        });
        let at = labels_start(column);
        match tick.filter(|_| labels.is_empty() || labels.len() < at) {
            Some((_, label)) => {
                marks.push('+');
                let _ = write!(labels, "{:at$}{label}", "", at = at - labels.len());
            }
            None => marks.push('-'),
        }
    }
    let _ = writeln!(plot, "  0% +{marks}");
    let _ = writeln!(plot, "{labels}");
    plot
}

/// Draws the share of people that is awake in each hour of the week, from Monday, 00:00 UTC: a line a day, two columns an hour.
/// Lines end in `\n`.
pub fn week_hours(awake: &[f64; 168]) -> String {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let mut plot = String::new();
    for (day, hours) in DAYS.iter().zip(awake.chunks(24)) {
        let cells: String = hours
            .iter()
            .map(|awake| match cell(*awake, 0.08, 0.75) {
                '#' => "##",
                ':' => "::",
                '.' => "..",
                _ => "  ",
            })
            .collect();
        // Writing to a String cannot fail.
        let _ = writeln!(plot, " {day} |{}", cells.trim_end());
    }
    plot + "     +-----------+-----------+-----------+-----------+\n      0           6           12          18         24 UTC\n"
}

/// The share of readers at the foot of a line.
fn share_of(line: u32) -> f64 {
    f64::from(line) / f64::from(HEIGHT)
}

/// Where the label of a column begins: below it.
fn labels_start(column: u32) -> usize {
    // Exact: a column is below WIDTH.
    usize::try_from(column).unwrap_or(0) + 6
}

/// One character: full, half full or empty. ASCII, since a terminal over a serial line has nothing else.
fn cell(share: f64, floor: f64, ceiling: f64) -> char {
    if share >= ceiling - 1e-9 {
        '#'
    } else if share > f64::midpoint(floor, ceiling) {
        ':'
    } else if share > floor {
        '.'
    } else {
        ' '
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_of_a_day() {
        // As many read in each octave, all after a day.
        let share = |age: Duration| (age.as_secs_f64().ln() / 86_400_f64.ln()).max(0.0);
        let plot = read_curve(share, Duration::from_secs(86_400));
        let expected = "\
100% |                                                 ...:::#
     |                                          ...::::#######
     |                                   ...::::##############
     |                            ...::::#####################
 50% |                     ....:::############################
     |              ....:::###################################
     |       ....:::##########################################
     | ...:::#################################################
  0% ++----------+-------+----------+--------+--------+------+
      1s         10s     1m         10m      1h       6h     24h
";
        assert_eq!(plot, expected, "\n{plot}");
    }

    #[test]
    fn the_hours_of_a_week() {
        let awake = std::array::from_fn(|hour| match (hour / 24, hour % 24) {
            (5.., _) | (_, 14..) => 2e-4,
            (_, 12..) => 0.3,
            _ => 1.0,
        });
        let day = "########################....";
        let expected = format!(
            " Mon |{day}\n Tue |{day}\n Wed |{day}\n Thu |{day}\n Fri |{day}\n Sat |\n Sun |\n{}",
            "     +-----------+-----------+-----------+-----------+\n      0           6           12          18         24 UTC\n"
        );
        let plot = week_hours(&awake);
        assert_eq!(plot, expected, "\n{plot}");
    }

    #[test]
    fn any_curve_and_any_life_can_be_drawn() {
        for seconds in [0, 1, 30, 86_400, 40_000_000] {
            for share in [f64::NAN, -1.0, 0.0, 0.5, 2.0] {
                let plot = read_curve(|_| share, Duration::from_secs(seconds));
                assert_eq!(plot.lines().count(), 10);
                assert!(plot.lines().all(|line| line.len() <= 70), "\n{plot}");
            }
        }
    }
}
