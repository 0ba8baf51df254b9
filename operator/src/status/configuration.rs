//! Whether every Prometheus has loaded the configuration that the wish asks for.

use super::cluster::{Facts, PROMETHEUS, states};
use super::conditions::Conditions;
use crate::api::{ConfigurationStatus, Rejected};
use crate::cluster::{ConditionType as C, Reason};
use crate::desired::rules_hash;

/// Which replicas have loaded what.
pub(super) fn status(facts: &Facts<'_>, total: i32) -> Option<ConfigurationStatus> {
    let valid = facts.valid.ok()?;
    let wanted = &valid.configuration;
    let rules = rules_hash(valid);
    let loaded = states(facts, PROMETHEUS).filter(|(_, state)| {
        state.configuration.as_ref().is_some_and(|c| {
            let rules = c.rules.as_ref().is_none_or(|loaded| *loaded == rules);
            c.loaded.as_ref() == Some(&wanted.hash) && rules && c.error.is_none()
        })
    });
    let count = i32::try_from(valid.rejected.len()).unwrap_or(i32::MAX);
    Some(ConfigurationStatus {
        hash: wanted.hash.clone(),
        last_good_hash: wanted.last_good_hash.clone(),
        loaded: i32::try_from(loaded.count()).unwrap_or(i32::MAX).min(total),
        total,
        rejected: (count > 0).then(|| Rejected { count, first: valid.rejected.iter().take(10).cloned().collect() }),
    })
}

/// Says whether it is in effect.
pub(super) fn judge(facts: &Facts<'_>, configuration: Option<&ConfigurationStatus>, conditions: &mut Conditions) {
    let Some(configuration) = configuration else { return };
    let refused = states(facts, PROMETHEUS).find_map(|(pod, state)| {
        // A Prometheus that doesn't answer (it starts, it replays its log) has refused nothing.
        let up = state.prometheus.as_ref().is_none_or(|prometheus| prometheus.up);
        let found = state.configuration.as_ref().filter(|_| up)?;
        let current = found.wanted == configuration.hash || found.loaded.as_ref() == Some(&configuration.hash);
        Some((pod, found.error.clone().filter(|_| current)?))
    });
    let Some(valid) = facts.valid.ok() else { return };
    let total = configuration.total;
    if let Some((pod, error)) = refused {
        let from_secrets = valid.spec.scrape.additional.iter().any(|source| source.secret_ref.is_some());
        let error = if from_secrets { unquoted(&error) } else { error };
        let stays = if valid.configuration.last_good.is_some() { " The last good one stays in effect." } else { "" };
        let message = format!("{pod} refused the configuration: {}.{stays} Correct it.", error.trim_end_matches('.'));
        conditions.no(C::ConfigurationApplied, Reason::ReloadFailed, message);
    } else if configuration.loaded < total {
        let message = format!(
            "{} of {total} replicas have loaded the configuration; waiting for the others.",
            configuration.loaded
        );
        conditions.no(C::ConfigurationApplied, Reason::WaitingForReload, message);
    } else {
        conditions.yes(
            C::ConfigurationApplied,
            Reason::Loaded,
            format!("All {total} replicas have loaded the configuration."),
        );
    }
}

/// Prometheus quotes the first characters of a value that it can't read, in back-quotes: of a Secret that would be told.
fn unquoted(error: &str) -> String {
    let mut pieces = error.split('`');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    while pieces.next().is_some() {
        text.push_str("`…`");
        text.push_str(pieces.next().unwrap_or_default());
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_prometheus_quotes_is_left_out() {
        for (said, told) in [
            ("line 3: cannot unmarshal !!str `s3cret` into int", "line 3: cannot unmarshal !!str `…` into int"),
            ("a `b` c `d` e", "a `…` c `…` e"),
            ("nothing", "nothing"),
            ("open `end", "open `…`"),
        ] {
            assert_eq!(super::unquoted(said), told);
        }
    }
}
