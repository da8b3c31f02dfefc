//! `[accounts.*]` and `[budgets.*]`: who asks, and what it may cost.

use std::collections::BTreeMap;

use secrecy::SecretString;

use super::reader::{Given, Reader, Wrong, nearest};
use super::secret::{Places, Secret};
use super::values;
use crate::receipt::{AccountName, RobotCode};

/// `[accounts.NAME]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The kind of app and its credentials.
    pub app: App,
    /// The bot of rows that name none.
    pub robot_code: Option<RobotCode>,
    /// Calls a second of each of its lanes.
    pub calls_per_second: u32,
    /// How many metered calls a month it may make.
    pub budget: Option<Budget>,
}

/// The two kinds of app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum App {
    /// An internal app of one organisation.
    Internal {
        /// `appKey`
        app_key: String,
        /// `appSecret`
        app_secret: Secret,
    },
    /// A third-party app: a lane for each organisation that authorised it.
    ThirdParty {
        /// `suiteKey`
        suite_key: String,
        /// `suiteSecret`
        suite_secret: Secret,
    },
}

impl App {
    /// Its key at the vendor, and where its secret is.
    pub fn credentials(&self) -> (&str, &Secret) {
        match self {
            Self::Internal {
                app_key,
                app_secret,
            } => (app_key, app_secret),
            Self::ThirdParty {
                suite_key,
                suite_secret,
            } => (suite_key, suite_secret),
        }
    }
}

/// Where an account's calls are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Budget {
    /// Its own: metered calls a month.
    Own(u64),
    /// A `[budgets.NAME]` shared with others.
    Shared(String),
}

/// The standard edition's limit, from the vendor's documentation.
const STANDARD_CALLS_PER_SECOND: u32 = 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Internal,
    ThirdParty,
}

/// Reads `[budgets.*]`.
pub(super) fn budgets(reader: &mut Reader<'_>) -> BTreeMap<String, u64> {
    let mut budgets = BTreeMap::new();
    for name in reader.names("budgets") {
        reader.section(&["budgets", &name]);
        let calls = reader.required(&["budgets", &name, "monthly_calls"], monthly_calls());
        budgets.insert(name, calls.unwrap_or(0));
    }
    budgets
}

/// Reads `[accounts.*]`.
pub(super) fn accounts(
    reader: &mut Reader<'_>,
    budgets: &BTreeMap<String, u64>,
    places: &Places,
) -> BTreeMap<AccountName, Account> {
    let names = reader.names("accounts");
    let read = names.into_iter().filter_map(|name| {
        let account = OneAccount {
            name: &name,
            reader,
        }
        .read(budgets, places)?;
        Some((AccountName::from(name), account))
    });
    read.collect()
}

/// One `[accounts.NAME]` under reading.
struct OneAccount<'r, 'a> {
    name: &'r str,
    reader: &'r mut Reader<'a>,
}

impl OneAccount<'_, '_> {
    fn read(mut self, budgets: &BTreeMap<String, u64>, places: &Places) -> Option<Account> {
        self.reader.section(&["accounts", self.name]);
        let kinds = [
            ("internal", Kind::Internal),
            ("third_party", Kind::ThirdParty),
        ];
        let given = self.optional("app", values::one_of(&kinds));
        // A misspelt kind was refused already; what follows must not be judged by a guess.
        let misspelt = given.is_none() && self.is_set("app");
        let kind = given.unwrap_or(Kind::Internal);

        let key = self.app_key(kind, misspelt);
        let secret = self.secret(kind, misspelt, places);
        let robot_code = self.optional("robot_code", values::text);
        let calls_per_second = self.optional("calls_per_second", values::whole(1..=1_000_000));
        let budget = self.budget(budgets);

        let (key, secret) = (key?, secret?);
        let app = match kind {
            Kind::Internal => App::Internal {
                app_key: key,
                app_secret: secret,
            },
            Kind::ThirdParty => App::ThirdParty {
                suite_key: key,
                suite_secret: secret,
            },
        };
        Some(Account {
            app,
            robot_code: robot_code.map(RobotCode::from),
            calls_per_second: calls_per_second.unwrap_or(STANDARD_CALLS_PER_SECOND),
            budget,
        })
    }

    fn app_key(&mut self, kind: Kind, misspelt: bool) -> Option<String> {
        let app = self.optional("app_key", values::text);
        let suite = self.optional("suite_key", values::text);
        let set = self.set(&["app_key", "suite_key"]);
        if misspelt || self.suite_words_refused(kind, &set) {
            return None;
        }
        match set.as_slice() {
            [] => {
                let name = self.word(kind, "key");
                self.refuse(None, "has no key", format!("add {name} = \"...\""));
                None
            }
            [_] => app.or(suite),
            _ => {
                self.refuse(
                    Some("suite_key"),
                    "stands beside app_key",
                    "keep one of them".to_owned(),
                );
                None
            }
        }
    }

    fn secret(&mut self, kind: Kind, misspelt: bool, places: &Places) -> Option<Secret> {
        let mut found = None;
        for inline in ["app_secret", "suite_secret"] {
            let read = self.optional(inline, values::text);
            found = found.or(read.map(|text| Secret::Inline(SecretString::from(text))));
        }
        for file in ["app_secret_file", "suite_secret_file"] {
            let read = self.optional(file, values::path);
            found = found.or(read.map(|named| {
                let (path, from_credentials) = places.find(&named);
                Secret::File {
                    path,
                    from_credentials,
                }
            }));
        }
        let set = self.set(&[
            "app_secret",
            "app_secret_file",
            "suite_secret",
            "suite_secret_file",
        ]);
        if misspelt || self.suite_words_refused(kind, &set) {
            return None;
        }
        match set.as_slice() {
            [] => {
                let name = self.word(kind, "secret_file");
                self.refuse(None, "has no secret", format!("add {name} = \"FILE\""));
                None
            }
            [_] => found,
            several => {
                let problem = format!("has two secrets at once: {}", several.join(" and "));
                self.refuse(None, &problem, "keep one of them".to_owned());
                None
            }
        }
    }

    /// The suite's words in an internal app.
    fn suite_words_refused(&mut self, kind: Kind, set: &[&'static str]) -> bool {
        let strange = set
            .iter()
            .filter(|word| kind == Kind::Internal && word.starts_with("suite_"));
        let strange: Vec<&str> = strange.copied().collect();
        for word in &strange {
            let app_word = word.replacen("suite_", "app_", 1);
            let remedy = format!("write app = \"third_party\", or {app_word} for an internal app");
            self.refuse(
                Some(word),
                "belongs to a third-party app, and this one is internal",
                remedy,
            );
        }
        !strange.is_empty()
    }

    fn budget(&mut self, budgets: &BTreeMap<String, u64>) -> Option<Budget> {
        let own = self.optional("monthly_calls", monthly_calls());
        let shared = self.optional("budget", values::text);
        if self.set(&["monthly_calls", "budget"]).len() == 2 {
            let remedy = "keep monthly_calls for a budget of its own, or budget for a shared one";
            self.refuse(
                Some("budget"),
                "stands beside monthly_calls",
                remedy.to_owned(),
            );
            return None;
        }
        if let Some(name) = &shared
            && !budgets.contains_key(name)
        {
            let remedy = match nearest(name, budgets.keys()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => "add that section with its monthly_calls".to_owned(),
            };
            self.refuse(
                Some("budget"),
                &format!("names {name:?}, and there is no [budgets] of that name"),
                remedy,
            );
        }
        own.map(Budget::Own).or(shared.map(Budget::Shared))
    }

    fn optional<T>(
        &mut self,
        word: &str,
        convert: impl FnOnce(&Given<'_>) -> Result<T, Wrong>,
    ) -> Option<T> {
        self.reader
            .optional(&["accounts", self.name, word], convert)
    }

    fn is_set(&self, word: &str) -> bool {
        self.reader.is_set(&["accounts", self.name, word])
    }

    fn set(&self, words: &[&'static str]) -> Vec<&'static str> {
        words
            .iter()
            .copied()
            .filter(|word| self.is_set(word))
            .collect()
    }

    fn word(&self, kind: Kind, rest: &str) -> String {
        match kind {
            Kind::Internal => format!("app_{rest}"),
            Kind::ThirdParty => format!("suite_{rest}"),
        }
    }

    fn refuse(&mut self, word: Option<&str>, problem: &str, remedy: String) {
        let name = self.name;
        let wrong = Wrong::new(problem, remedy);
        match word {
            Some(word) => self.reader.refuse(&["accounts", name, word], wrong),
            None => self.reader.refuse(&["accounts", name], wrong),
        }
    }
}

/// A month at the address's ceiling of 500 calls a second has 1.3 thousand million.
fn monthly_calls() -> impl Fn(&Given<'_>) -> Result<u64, Wrong> {
    values::whole(0..=4_000_000_000)
}
