//! The memory that this process may use.

/// What version 1 says where there is no limit, rounded down.
const UNLIMITED: u64 = 1 << 60;

/// The limit of the container or control group, bytes; `None` outside of one (`memory.max` of version 2,
/// `memory.limit_in_bytes` of version 1).
pub fn limit() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = places(&own).into_iter().filter_map(|place| std::fs::read_to_string(place).ok()?.trim().parse().ok());
    limits.filter(|bytes| *bytes < UNLIMITED).min()
}

/// The files that may name a limit: of the container's own view, and of the groups that `/proc/self/cgroup` names.
fn places(own: &str) -> Vec<String> {
    let root = "/sys/fs/cgroup";
    let mut all = vec![format!("{root}/memory.max"), format!("{root}/memory/memory.limit_in_bytes")];
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let path = path.trim_end_matches('/');
        if controllers.is_empty() {
            all.push(format!("{root}{path}/memory.max"));
        } else if controllers.split(',').any(|c| c == "memory") {
            all.push(format!("{root}/memory{path}/memory.limit_in_bytes"));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    #[test]
    fn both_versions_are_looked_at() {
        let all = super::places("9:name=systemd:/\n4:cpu,memory:/a/b\n0::/kube/pod\nnonsense\n").join(" ");
        for place in ["cgroup/memory.max", "cgroup/memory/a/b/memory.limit_in_bytes", "cgroup/kube/pod/memory.max"] {
            assert!(all.contains(place), "{all}");
        }
        assert!(!all.contains("systemd"));
    }
}
