//! What was measured: pairs, their spread, limits; printed as a table and written as JSON.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

/// One measurement of ours and the one of theirs beside it.
pub type Pair = (f64, f64);

/// Measures `count` pairs, whose halves take turns in going first.
pub fn pairs(
    count: usize,
    mut ours: impl FnMut() -> f64,
    mut theirs: impl FnMut() -> f64,
) -> Vec<Pair> {
    (0..count)
        .map(|round| pair(round, &mut ours, &mut theirs))
        .collect()
}

fn pair(round: usize, ours: &mut impl FnMut() -> f64, theirs: &mut impl FnMut() -> f64) -> Pair {
    if round.is_multiple_of(2) {
        let our = ours();
        (our, theirs())
    } else {
        let their = theirs();
        (ours(), their)
    }
}

/// Measures pairs with everything cached. `warm` goes first; where somebody has dropped the machine's caches meanwhile, it
/// goes again and so does the pair, within reason.
pub fn warm_pairs(
    count: usize,
    mut warm: impl FnMut(),
    mut ours: impl FnMut() -> f64,
    mut theirs: impl FnMut() -> f64,
) -> Vec<Pair> {
    warm();
    let mut spare = count;
    let one = |round| {
        loop {
            let before = cache_drops();
            let pair = pair(round, &mut ours, &mut theirs);
            if cache_drops() == before || spare == 0 {
                return pair;
            }
            spare -= 1;
            warm();
        }
    };
    (0..count).map(one).collect()
}

/// How often caches were dropped since the machine started.
fn cache_drops() -> u64 {
    let text = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let drops = text.lines().filter_map(|line| line.strip_prefix("drop_"));
    drops
        .filter_map(|line| line.split(' ').nth(1)?.parse::<u64>().ok())
        .sum()
}

/// What a row must reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Not less.
    AtLeast(f64),
    /// Not more.
    AtMost(f64),
    /// Shown, not judged.
    None,
}

impl Limit {
    fn holds(self, value: f64) -> Option<bool> {
        match self {
            Limit::AtLeast(limit) => Some(value >= limit),
            Limit::AtMost(limit) => Some(value <= limit),
            Limit::None => None,
        }
    }

    fn text(self) -> String {
        match self {
            Limit::AtLeast(limit) => format!("≥ {limit}"),
            Limit::AtMost(limit) => format!("≤ {limit}"),
            Limit::None => "-".into(),
        }
    }
}

/// Median and spread of some values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// A quarter is below.
    pub low: f64,
    /// A quarter is above.
    pub high: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let place = part * (values.len() - 1) as f64;
            let (below, above) = (
                values[place.floor() as usize],
                values[place.ceil() as usize],
            );
            below + (above - below) * place.fract()
        };
        Spread {
            median: at(0.5),
            low: at(0.25),
            high: at(0.75),
            min: at(0.0),
            max: at(1.0),
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The word `--only` takes.
    pub row: &'static str,
    /// What is measured, and against what.
    pub what: String,
    /// Of `ours` and `theirs`.
    pub unit: &'static str,
    /// Median.
    pub ours: f64,
    /// Median; none where ours is judged by itself.
    pub theirs: Option<f64>,
    /// Of ours divided by theirs, pair by pair; of ours where there are no theirs.
    pub spread: Spread,
    /// How many pairs or values.
    pub pairs: usize,
    /// For the median of the spread.
    pub limit: Limit,
    /// Whether it is reached.
    pub met: Option<bool>,
    /// What else was seen.
    pub note: String,
}

impl Row {
    /// A row of pairs, judged by the median of their ratios.
    pub fn ratio(
        row: &'static str,
        what: impl Into<String>,
        unit: &'static str,
        pairs: &[Pair],
        limit: Limit,
    ) -> Self {
        let spread = Spread::of(pairs.iter().map(|(ours, theirs)| ours / theirs));
        Row {
            row,
            what: what.into(),
            unit,
            ours: Spread::of(pairs.iter().map(|pair| pair.0)).median,
            theirs: Some(Spread::of(pairs.iter().map(|pair| pair.1)).median),
            spread,
            pairs: pairs.len(),
            limit,
            met: limit.holds(spread.median),
            note: String::new(),
        }
    }

    /// A row of values, judged by their median.
    pub fn value(
        row: &'static str,
        what: impl Into<String>,
        unit: &'static str,
        values: &[f64],
        limit: Limit,
    ) -> Self {
        let spread = Spread::of(values.iter().copied());
        Row {
            row,
            what: what.into(),
            unit,
            ours: spread.median,
            theirs: None,
            spread,
            pairs: values.len(),
            limit,
            met: limit.holds(spread.median),
            note: String::new(),
        }
    }

    /// Adds what else was seen.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    fn cells(&self) -> [String; 8] {
        let spread = format!("{}..{}", short(self.spread.low), short(self.spread.high));
        let (theirs, ratio) = match self.theirs {
            Some(theirs) => (
                short(theirs),
                format!("{} ({spread})", short(self.spread.median)),
            ),
            None => ("-".into(), format!("({spread})")),
        };
        [
            self.row.into(),
            self.what.clone(),
            format!("{} {}", short(self.ours), self.unit),
            theirs,
            ratio,
            self.pairs.to_string(),
            self.limit.text(),
            match self.met {
                Some(true) => "yes".into(),
                Some(false) => "NO".into(),
                None => "-".into(),
            },
        ]
    }
}

/// Three digits that matter.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || size == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// Prints the head of the table.
pub fn print_head() {
    println!("| row | what | ours | theirs | ratio (quartiles) | pairs | limit | met |");
    println!("|---|---|---|---|---|---|---|---|");
}

/// Prints a row, and its note below.
pub fn print_row(row: &Row) {
    println!("| {} |", row.cells().join(" | "));
    if !row.note.is_empty() {
        eprintln!("    {}: {}", row.row, row.note);
    }
}

/// Everything of one run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// How it was called.
    pub arguments: Vec<String>,
    /// Where and when it ran.
    pub machine: crate::machine::Machine,
    /// The rows.
    pub rows: Vec<Row>,
    /// What was left out, and why.
    pub left_out: Vec<String>,
}

impl Report {
    /// Writes it as JSON.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(path, text)
    }
}
