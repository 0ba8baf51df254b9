//! One table per subcommand: a flag's name, default and help, from which argv is both parsed and rendered.

use clap::{Arg, ArgAction, ArgMatches};
use std::fmt;
use std::str::FromStr;

/// A duration in milliseconds, written as Prometheus writes it (`5m`, `1h30m`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub struct Millis(pub i64);

impl Millis {
    /// As a standard duration; a negative value counts as zero.
    pub fn duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(u64::try_from(self.0).unwrap_or(0))
    }
}

impl FromStr for Millis {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        model::time::parse_duration(s).map(Self).map_err(|e| format!("{e}: write it as 30s, 5m or 1h30m"))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        model::time::PromDuration(self.0).fmt(f)
    }
}

/// A boolean flag: `--x`, `--x=false` or, as in Thanos, `--no-x` (see [`normalize`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Switch(pub bool);

impl FromStr for Switch {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "true" => Ok(Self(true)),
            "false" => Ok(Self(false)),
            other => Err(format!("{other:?} is neither true nor false")),
        }
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number of bytes, written as Thanos writes it: `250MB`, `64KiB`. KB and KiB are both 1024 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Unit and its power of two, from the largest.
const UNITS: [(&str, u32); 6] = [("PB", 50), ("TB", 40), ("GB", 30), ("MB", 20), ("KB", 10), ("B", 0)];

impl FromStr for Size {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = || format!("{s:?} is no number of bytes: write it as 250MB, 64KiB or 16000B");
        let digits = s.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(s.len());
        let (number, unit) = s.split_at(digits);
        let unit = unit.replacen("iB", "B", 1);
        let power = match unit.as_str() {
            "" => 0,
            unit => UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1,
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(1 << power).map(Self).ok_or_else(wrong);
        }
        let number: f64 = number.parse().map_err(|_e| wrong())?;
        let bytes = number * (1u64 << power) as f64;
        // Exact for all sizes that a machine has.
        if bytes.is_finite() && bytes < 9e18 { Ok(Self(bytes as u64)) } else { Err(wrong()) }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, power): &&(&str, u32)| self.0 >= 1 << power && self.0.is_multiple_of(1 << power);
        let (unit, power) = UNITS.iter().find(fits).unwrap_or(&("B", 0));
        write!(f, "{}{unit}", self.0 >> power)
    }
}

/// A flag that may be repeated; its default is none.
pub type List = Vec<String>;

/// A type that a flag can have: how clap reads it and how it is written back into argv.
pub(crate) trait FlagValue: Sized {
    /// The clap argument; `default` is its text.
    fn arg(name: &'static str, default: &'static str) -> Arg;
    /// The parsed value.
    fn take(name: &str, matches: &ArgMatches) -> Self;
    /// Appends `--name=value`, unless the value is the default.
    fn render(&self, name: &str, default: &str, argv: &mut Vec<String>);
}

macro_rules! scalar {
    ($($t:ty),*) => {$(
        impl FlagValue for $t {
            fn arg(name: &'static str, default: &'static str) -> Arg {
                Arg::new(name).long(name).value_name("VALUE").value_parser(clap::value_parser!($t)).default_value(default)
            }
            fn take(name: &str, matches: &ArgMatches) -> Self {
                // Present: the argument has a default.
                matches.get_one::<$t>(name).cloned().unwrap_or_else(|| unreachable!("--{name} has a default"))
            }
            fn render(&self, name: &str, default: &str, argv: &mut Vec<String>) {
                let value = self.to_string();
                if value != default {
                    argv.push(format!("--{name}={value}"));
                }
            }
        }
    )*};
}
scalar!(
    String,
    u64,
    Millis,
    Size,
    crate::LogLevel,
    crate::LogFormat,
    crate::HashFunc,
    crate::HeaderStrategy,
    crate::DedupFunc,
    crate::PushDown
);

impl FlagValue for Switch {
    fn arg(name: &'static str, default: &'static str) -> Arg {
        Arg::new(name)
            .long(name)
            .value_name("BOOL")
            .value_parser(clap::value_parser!(Switch))
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value(default)
    }
    fn take(name: &str, matches: &ArgMatches) -> Self {
        matches.get_one::<Self>(name).copied().unwrap_or(Self(false))
    }
    fn render(&self, name: &str, default: &str, argv: &mut Vec<String>) {
        if self.to_string() != default {
            argv.push(if self.0 { format!("--{name}") } else { format!("--no-{name}") });
        }
    }
}

impl FlagValue for List {
    fn arg(name: &'static str, _default: &'static str) -> Arg {
        Arg::new(name).long(name).value_name("VALUE").action(ArgAction::Append)
    }
    fn take(name: &str, matches: &ArgMatches) -> Self {
        matches.get_many::<String>(name).map(|v| v.cloned().collect()).unwrap_or_default()
    }
    fn render(&self, name: &str, _default: &str, argv: &mut Vec<String>) {
        argv.extend(self.iter().map(|v| format!("--{name}={v}")));
    }
}

/// Declares a struct of flags. Each line: help, field, type, `= "flag-name", "default", since "version"`; `List`
/// fields default to none. From it come the clap arguments, `Default` and `render`.
macro_rules! flags {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $([$shared:ident: $shared_type:ty])*
            $( $(#[doc = $doc:literal])* $field:ident: $type:ty = $flag:literal, $default:literal, since $since:literal; )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Debug)]
        pub struct $name {
            $(
                /// Flags that several subcommands share.
                pub $shared: $shared_type,
            )*
            $( $(#[doc = $doc])* pub $field: $type, )*
        }

        impl $name {
            /// The argv that parses to this value: only what differs from the defaults, in the order of the table.
            pub fn render(&self) -> Vec<String> {
                let mut argv = Vec::new();
                $( argv.extend(self.$shared.render()); )*
                $( $crate::flag::FlagValue::render(&self.$field, $flag, $default, &mut argv); )*
                argv
            }
        }

        impl clap::Args for $name {
            fn augment_args(command: clap::Command) -> clap::Command {
                $( let command = <$shared_type as clap::Args>::augment_args(command); )*
                command.args([
                    $( <$type as $crate::flag::FlagValue>::arg($flag, $default).help(concat!($($doc,)*).trim_start()) ),*
                ])
            }
            fn augment_args_for_update(command: clap::Command) -> clap::Command {
                Self::augment_args(command)
            }
        }

        impl clap::FromArgMatches for $name {
            fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
                Ok(Self {
                    $( $shared: <$shared_type as clap::FromArgMatches>::from_arg_matches(matches)?, )*
                    $( $field: <$type as $crate::flag::FlagValue>::take($flag, matches), )*
                })
            }
            fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
                *self = Self::from_arg_matches(matches)?;
                Ok(())
            }
        }

        impl Default for $name {
            fn default() -> Self {
                let command = <Self as clap::Args>::augment_args(clap::Command::new("defaults").no_binary_name(true));
                let parsed = command
                    .try_get_matches_from(std::iter::empty::<&str>())
                    .and_then(|m| <Self as clap::FromArgMatches>::from_arg_matches(&m));
                // A test parses every table, so every default text is known to parse.
                parsed.unwrap_or_else(|e| unreachable!("a default does not parse: {e}"))
            }
        }
    };
}
pub(crate) use flags;

/// Flags of Thanos that are accepted without an effect: they tune the Go runtime, are Thanos's own no-ops, or ask for what
/// is always done here (a corrupt block never holds up others; a bucket is listed at once, not block by block; index-headers
/// are opened when they are used, with every 32nd entry of their tables in memory; postings that cost more than the series
/// that they save are never read; regular expressions need no cache; there
/// are no operations that change the bucket).
const IGNORED: &[&str] = &[
    "enable-auto-gomemlimit",
    "auto-gomemlimit.ratio",
    "shipper.skip-corrupted-blocks",
    "block-discovery-strategy",
    "store.enable-index-header-lazy-reader",
    "store.index-header-posting-offsets-in-mem-sampling",
    "matcher-cache-size",
    "store.enable-lazy-expanded-postings",
    "store.posting-group-max-key-series-ratio",
    "disable-admin-operations",
    "no-store.enable-index-header-lazy-reader",
    "no-store.enable-lazy-expanded-postings",
    "no-disable-admin-operations",
];

/// Flags of Thanos that can't be honoured (yet), and what to use instead.
const REFUSED: &[(&str, &str)] = &[
    ("store", "it was removed from Thanos as well: use --endpoint"),
    ("store.sd-files", "list the addresses in --endpoint.sd-config-file, which is reloaded when it changes"),
    ("request.logging-config", "requests are logged at --log.level=debug"),
    ("tracing.config", "traces are not exported yet"),
    ("tracing.config-file", "traces are not exported yet"),
    ("query.promql-engine", "there is one engine, ours; leave the flag out"),
    ("query.mode", "only local mode exists yet; leave the flag out"),
    ("objstore-parquet.config", "blocks that were converted to Parquet are read in their own form; leave the flag out"),
    (
        "objstore-parquet.config-file",
        "blocks that were converted to Parquet are read in their own form; leave the flag out",
    ),
    ("store.caching-bucket.config", "what was read is kept under --data-dir: set its size with --cache.disk-size"),
    ("store.caching-bucket.config-file", "what was read is kept under --data-dir: set its size with --cache.disk-size"),
    ("block-viewer.global.sync-block-interval", "the list of blocks is that of the last pass: set --wait-interval"),
    ("block-viewer.global.sync-block-timeout", "the list of blocks is that of the last pass; leave the flag out"),
    ("reloader.method", "the configuration is reloaded over HTTP; leave the flag out"),
];

/// Makes argv ready for clap: turns Thanos's `--no-x` into `--x=false`, drops flags without an effect here, and
/// refuses those that can't be honoured with a sentence that says what to use instead.
pub fn normalize(argv: impl IntoIterator<Item = String>, command: &clap::Command) -> Result<Vec<String>, String> {
    let known = |name: &str| command.get_arguments().any(|a| a.get_long() == Some(name));
    let mut out = Vec::new();
    let mut argv = argv.into_iter().peekable();
    while let Some(arg) = argv.next() {
        // The only short flag that Thanos's parts have (compact).
        let arg = if arg == "-w" && known("wait") { "--wait".to_owned() } else { arg };
        let Some(body) = arg.strip_prefix("--") else {
            out.push(arg);
            continue;
        };
        let (name, value) = body.split_once('=').map_or((body, None), |(n, v)| (n, Some(v)));
        if let Some((_, instead)) = REFUSED.iter().find(|(n, _)| *n == name && !known(n)) {
            return Err(format!("--{name} is a Thanos flag that Panoptes can't honour: {instead}"));
        }
        if IGNORED.contains(&name) {
            if value.is_none() && argv.peek().is_some_and(|v| !v.starts_with('-')) {
                argv.next();
            }
            continue;
        }
        match name.strip_prefix("no-") {
            Some(positive) if value.is_none() && !known(name) && known(positive) => {
                out.push(format!("--{positive}=false"));
            }
            _ => out.push(arg),
        }
    }
    Ok(out)
}
