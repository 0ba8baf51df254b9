//! The memory that this process may use.

/// The limit of the container, bytes; `None` outside of one (cgroup v2's `memory.max`).
pub fn limit() -> Option<u64> {
    std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok()?.trim().parse().ok()
}
