//! The `process_*` metrics, from `/proc`.

use super::metrics::gauge;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

/// Clock ticks in a second: a constant of Linux's user interface on every architecture that we build for.
const TICKS: f64 = 100.0;
/// Size of a page in bytes on x86-64.
const PAGE: f64 = 4096.0;

#[derive(Debug)]
pub(super) struct ProcessMetrics;

/// What `/proc` tells about this process.
#[derive(Debug, Default, PartialEq)]
struct Usage {
    cpu_seconds: f64,
    /// Seconds between boot and start.
    start_after_boot: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
    threads: f64,
}

/// Reads `/proc/self/stat`: the fields after the command name, which is in parentheses and may contain anything.
fn parse_stat(stat: &str) -> Option<Usage> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // proc(5) counts from 1 with the process id; `rest` begins with field 3.
    let field = |n: usize| fields.get(n - 3)?.parse::<f64>().ok();
    Some(Usage {
        cpu_seconds: (field(14)? + field(15)?) / TICKS,
        threads: field(20)?,
        start_after_boot: field(22)? / TICKS,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * PAGE,
    })
}

fn boot_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()
}

fn max_fds() -> Option<f64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|l| l.starts_with("Max open files"))?;
    line.split_ascii_whitespace().nth(3)?.parse().ok()
}

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let e = &mut encoder;
        if let Some(usage) = std::fs::read_to_string("/proc/self/stat").ok().and_then(|s| parse_stat(&s)) {
            let cpu = ConstCounter::new(usage.cpu_seconds);
            let help = "Total user and system CPU time spent in seconds";
            cpu.encode(e.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?)?;
            gauge(e, "process_resident_memory_bytes", "Resident memory size in bytes", usage.resident_bytes)?;
            gauge(e, "process_virtual_memory_bytes", "Virtual memory size in bytes", usage.virtual_bytes)?;
            gauge(e, "process_threads", "Number of threads", usage.threads)?;
            if let Some(boot) = boot_time() {
                let start = boot + usage.start_after_boot;
                gauge(e, "process_start_time_seconds", "Start time of the process since the epoch in seconds", start)?;
            }
        }
        if let Ok(fds) = std::fs::read_dir("/proc/self/fd") {
            // Reading the directory opens one more.
            let open = fds.count().saturating_sub(1) as f64;
            gauge(e, "process_open_fds", "Number of open file descriptors", open)?;
        }
        if let Some(max) = max_fds() {
            gauge(e, "process_max_fds", "Maximum number of open file descriptors", max)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_stat_line_with_an_awkward_name() {
        let line = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 12345 1000000 42 18446744073709551615 1";
        let want = Usage {
            cpu_seconds: 2.0,
            start_after_boot: 123.45,
            virtual_bytes: 1e6,
            resident_bytes: 42.0 * 4096.0,
            threads: 9.0,
        };
        assert_eq!(parse_stat(line), Some(want));
        assert_eq!(parse_stat("7 (x) S 1"), None);
    }
}
