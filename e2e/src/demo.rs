//! The demo: three clusters, one view over all of them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use testkit::wait;

use crate::cluster::{self, ALL, Cluster, FLEET, OPS, PROD, Purpose, STAGING};
use crate::fleet::{Certificates, NAMESPACE, Stack, apply_links, bucket, bucket_of, example};
use crate::install::Product;
use crate::{memory, say};

mod last_week;

const READY: Duration = Duration::from_secs(180);

/// Shows Panoptes on three clusters; running it again changes nothing.
///
/// # Errors
/// When something does not come up; the message holds the conditions of what is missing.
pub fn demo(binary: &Path) -> anyhow::Result<()> {
    let lock = cluster::Lock::take("the demo")?;
    let product = Product::of(binary)?;
    let started = cluster::up(&lock, &FLEET, Purpose::Demo, std::slice::from_ref(&product.image))?;
    say::step("installing definitions and operator (two replicas, one leads) in each cluster");
    on_all(&started, |s| product.install(s).with_context(|| format!("cluster {}", s.cluster.name)))?;

    say::step("applying examples/ops.yaml, prod.yaml, staging.yaml: a MonitoringCluster in each cluster");
    let certificates = Certificates::ensure()?;
    let ready = on_all(&FLEET, |c| {
        certificates.put(c)?;
        bucket(c, &bucket_of(c))?;
        if *c == OPS {
            last_week::archive()?;
        }
        let (start, stack) = (Instant::now(), Stack::of(*c));
        let new = stack.json(&["get", &stack.object()]).is_err();
        c.apply(&example(&format!("{}.yaml", c.name))?)?;
        stack.wait_ready(&stack.object(), READY)?;
        let seconds = start.elapsed().as_secs_f64();
        // Only for a new one that is a figure.
        say::step(&match new {
            true => format!("  {}: MonitoringCluster Ready after {seconds:.1} s", c.name),
            false => format!("  {}: MonitoringCluster was there, and is Ready", c.name),
        });
        stack.wait_condition(&stack.object(), "ObjectStorageReady", READY)?;
        let said = stack.condition(&stack.object(), "ObjectStorageReady")?;
        if *c == OPS {
            stack.wait_condition(&stack.object(), "CompactionHealthy", READY)?;
            let said = stack.condition(&stack.object(), "CompactionHealthy")?;
            say::step(&format!("  {}: CompactionHealthy={}/{}: {}", c.name, said.status, said.reason, said.message));
        }
        let bucket = bucket_of(c);
        say::step(&format!("  {}: bucket {bucket}: ObjectStorageReady={}: {}", c.name, said.status, said.message));
        Ok(new.then_some(seconds))
    })?;

    say::step("applying examples/remote-prod.yaml and remote-staging.yaml in ops");
    let (start, ops) = (Instant::now(), Stack::of(OPS));
    let new = ops.json(&["get", "rstore/prod"]).is_err();
    apply_links()?;
    let linked = on_all(&[PROD, STAGING], |c| {
        let (mut conditions, mut answered) = (None, None);
        // Both, as they come: the condition, and the data in the answer.
        wait::until("the link", READY, Duration::from_millis(200), || {
            if answered.is_none() && ops.up_by_cluster("")?.contains_key(c.name) {
                answered = Some(start.elapsed().as_secs_f64());
            }
            if conditions.is_none() {
                let object = format!("rstore/{}", c.name);
                ops.kubectl(&["wait", &object, "--for=condition=Ready", "--timeout=1s"])?;
                conditions = Some(start.elapsed().as_secs_f64());
            }
            anyhow::ensure!(answered.is_some() && conditions.is_some(), "{} is not in the answer yet", c.name);
            Ok(())
        })
        .map_err(|e| e.context(ops.conditions(&format!("rstore/{}", c.name)).unwrap_or_default()))?;
        let (conditions, answered) = (conditions.unwrap_or_default(), answered.unwrap_or_default());
        say::step(&match new {
            true => {
                format!("  {}: in the answer after {answered:.1} s, RemoteStore Ready after {conditions:.1} s", c.name)
            }
            false => format!("  {}: RemoteStore was there, is Ready and in the answer", c.name),
        });
        Ok(new.then_some(answered))
    })?;

    for c in FLEET {
        say::plain(&format!("\n$ kubectl --kubeconfig {} get moncl,rstore -A", c.kubeconfig().display()));
        say::plain(c.kubectl(&["get", "moncl,rstore", "-A"])?.trim_end());
    }
    say::plain("\ncount by (cluster) (up), asked of the querier in ops:\n");
    say::plain("  CLUSTER   TARGETS UP OR DOWN   ITS OWN COUNT");
    for (name, count, own) in counts(&ops)? {
        say::plain(&format!("  {name:<9} {count:>19} {own:>15}"));
    }
    let told = last_week::ask(&ops)?;
    say::plain(&format!(
        "\ncount by (cluster) (up) of {}, a week before any of these Prometheus servers ran: only the bucket has it\n",
        told.at
    ));
    say::plain(&format!(
        "  asked of                    ops\n  the querier {:>19}   through the store gateway",
        told.querier
    ));
    say::plain(&format!("  Prometheus  {:>19}   it was not there yet", told.prometheus));
    figures(&ready, &linked);
    hints();
    Ok(())
}

/// By cluster: the targets that ops counts, and those that the cluster's own querier counts. In the first seconds new targets still
/// appear between the two questions, so they are asked until they agree, or for half a minute.
fn counts(ops: &Stack) -> anyhow::Result<Vec<(String, u64, u64)>> {
    let start = Instant::now();
    loop {
        let mut rows = Vec::new();
        for (name, count) in ops.up_by_cluster("")? {
            let own = Stack::of(Cluster::named(&name)?).up_by_cluster("")?;
            rows.push((name.clone(), count, own.get(&name).copied().unwrap_or_default()));
        }
        if rows.iter().all(|(_, seen, own)| seen == own) || start.elapsed() > Duration::from_secs(30) {
            return Ok(rows);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Ends the clusters and removes what is left of them; built peers and images stay in the cache.
///
/// # Errors
/// When a process does not end.
pub fn demo_down() -> anyhow::Result<()> {
    let _lock = cluster::Lock::take("ending the demo")?;
    for c in ALL {
        cluster::down(&c)?;
        say::step(&format!("{} is gone", c.name));
    }
    cluster::remove_folders();
    say::step(&format!("nothing is left; what was built stays in {}", testkit::peers::cache().display()));
    Ok(())
}

/// Runs on all at once, and fails with the first failure.
///
/// # Errors
/// The first failure, in the order of `of`.
pub fn on_all<A: Sync, T: Send>(of: &[A], work: impl Fn(&A) -> anyhow::Result<T> + Sync) -> anyhow::Result<Vec<T>> {
    std::thread::scope(|scope| {
        let running: Vec<_> = of.iter().map(|a| scope.spawn(|| work(a))).collect();
        running.into_iter().map(|t| t.join().map_err(|_| anyhow::anyhow!("a thread failed"))?).collect()
    })
}

fn figures(ready: &[Option<f64>], linked: &[Option<f64>]) {
    let worst = |of: &[Option<f64>]| match of.iter().copied().flatten().reduce(f64::max) {
        Some(seconds) => format!("{seconds:>6.1} s"),
        None => "was there".to_owned(),
    };
    say::plain("\nfigures                                          here      aim");
    say::plain(&format!("  MonitoringCluster applied → Ready (slowest) {:<9} ≤ 60 s", worst(ready)));
    say::plain(&format!("  RemoteStore applied → in the answer         {:<9} ≤ 10 s", worst(linked)));
    for (role, aim) in [("operator", 64), ("sidecar", 32), ("store", 64), ("compact", 64), ("query", 64)] {
        let most = FLEET.iter().filter_map(|c| memory::largest(c, role)).max();
        let here =
            most.map_or_else(|| "     ?".to_owned(), |bytes| format!("{:>6.1}", bytes as f64 / f64::from(1 << 20)));
        say::plain(&format!("  memory at rest, largest {role:<20}{here} MiB ≤ {aim} MiB"));
    }
}

fn hints() {
    let config = OPS.kubeconfig();
    say::plain(&format!(
        "
try next
  export KUBECONFIG={config}
  kubectl get fleet -A -o wide                           # both kinds, with messages
  kubectl -n {NAMESPACE} describe rstore prod             # a link and its truth
  kubectl -n {NAMESPACE} delete pod ops-prometheus-0      # then look for a gap: there is none
  kubectl -n {NAMESPACE} delete rstore staging            # it leaves the answer; no pod restarts
  kubectl -n {NAMESPACE} get moncl ops -o jsonpath='{{.status.objectStorage}}{{.status.history}}{{.status.compaction}}'   # the bucket, as the parts see it
  kubectl -n {NAMESPACE} port-forward svc/ops-query 10902:http &
  curl -s localhost:10902/api/v1/query --data-urlencode 'query=sum by (cluster) (rate(container_cpu_usage_seconds_total[1m]))'

stop
  make demo-down",
        config = config.display()
    ));
}
