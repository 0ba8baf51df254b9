//! Faults between clusters; each ends when its guard is dropped.

use std::process::Command;

use anyhow::Context as _;

use super::Cluster;
use crate::run;

/// A fault that lasts as long as this lives.
#[derive(Debug)]
pub struct Fault {
    rules: Vec<Vec<String>>,
}

impl Fault {
    /// Packets between two clusters vanish: connections hang.
    ///
    /// # Errors
    /// When the firewall refuses the rule.
    pub fn cut(a: &Cluster, b: &Cluster) -> anyhow::Result<Self> {
        let way = |from: &Cluster, to: &Cluster| {
            vec!["FORWARD", "-i", &from.link(), "-o", &to.link(), "-j", "DROP"].into_iter().map(str::to_owned).collect()
        };
        Self::insert(vec![way(a, b), way(b, a)])
    }

    /// Connections from one cluster to the other are refused at once.
    ///
    /// # Errors
    /// When the firewall refuses the rule.
    pub fn refuse(from: &Cluster, to: &Cluster) -> anyhow::Result<Self> {
        let (from, to) = (from.link(), to.link());
        let rule = ["FORWARD", "-p", "tcp", "-i", &from, "-o", &to, "-j", "REJECT", "--reject-with", "tcp-reset"];
        Self::insert(vec![rule.map(str::to_owned).to_vec()])
    }

    fn insert(rules: Vec<Vec<String>>) -> anyhow::Result<Self> {
        let fault = Self { rules };
        for rule in &fault.rules {
            run::command(Command::new("iptables").args(["-w", "-I"]).args(rule)).context("make the fault")?;
        }
        Ok(fault)
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        for rule in &self.rules {
            let _ = run::command(Command::new("iptables").args(["-w", "-D"]).args(rule));
        }
    }
}
