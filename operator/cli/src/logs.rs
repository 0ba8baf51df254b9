//! Log lines with Thanos's keys: `ts`, `level`, `caller`, `msg`, then the event's own fields; as logfmt or JSON, on
//! standard error.

use args::{LogFormat, LogLevel};
use std::fmt::{self, Write};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Starts logging; `RUST_LOG` refines the level per module.
pub(crate) fn init(level: LogLevel, format: LogFormat) {
    let filter = EnvFilter::builder()
        .with_default_directive(to_tracing(level).into())
        .from_env_lossy()
        // These speak of every frame and every pooled connection at debug.
        .add_directive(quiet("h2", level))
        .add_directive(quiet("hyper_util", level))
        .add_directive(quiet("hickory_proto", level))
        .add_directive(quiet("hickory_resolver", level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .event_format(Lines { json: format == LogFormat::Json })
        .init();
}

fn to_tracing(level: LogLevel) -> Level {
    match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    }
}

fn quiet(module: &str, level: LogLevel) -> tracing_subscriber::filter::Directive {
    let level = if level == LogLevel::Trace { "debug" } else { "warn" };
    format!("{module}={level}").parse().unwrap_or_else(|_| Level::WARN.into())
}

struct Lines {
    json: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut ts = String::new();
        SystemTime.format_time(&mut Writer::new(&mut ts))?;
        let meta = event.metadata();
        let level = meta.level().as_str().to_ascii_lowercase();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let head = [("ts", ts), ("level", level), ("caller", meta.target().to_owned()), ("msg", fields.message)];
        let pairs = head.iter().map(|(k, v)| (*k, v)).chain(fields.rest.iter().map(|(k, v)| (*k, v)));
        if self.json {
            let object: serde_json::Map<String, serde_json::Value> =
                pairs.map(|(k, v)| (k.to_owned(), serde_json::Value::from(v.as_str()))).collect();
            return writeln!(out, "{}", serde_json::Value::Object(object));
        }
        for (i, (key, value)) in pairs.enumerate() {
            let space = if i > 0 { " " } else { "" };
            let plain = !value.is_empty()
                && value.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '"' && c != '=');
            if plain {
                write!(out, "{space}{key}={value}")?;
            } else {
                write!(out, "{space}{key}={value:?}")?;
            }
        }
        writeln!(out)
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.rest.push((field.name(), value.to_owned()));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a String can't fail.
            let _ = write!(self.message, "{value:?}");
        } else {
            self.rest.push((field.name(), format!("{value:?}")));
        }
    }
}
