//! Memory that is free stays with the arena of the thread that freed it. The services hand windows of chunks and answers from thread
//! to thread, so that with jemalloc's four arenas per processor they would hold several times what they use; and jemalloc counts the
//! processors of the machine, not those that the container may use.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Where jemalloc looks for options when a process begins, which is before anything of ours runs.
const OPTIONS: &str = "MALLOC_CONF";

/// Begins this process anew with an arena per two processors, unless somebody chose options. Does nothing where that is not
/// possible.
pub(crate) fn few() {
    if std::env::var_os(OPTIONS).is_some() {
        return;
    }
    let arenas = std::thread::available_parallelism().map_or(1, |n| n.get().div_ceil(2));
    let Ok(program) = std::env::current_exe() else { return };
    let mut all = std::env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = all.next() {
        command.arg0(name);
    }
    // It comes back only if it failed.
    let _ = command.args(all).env(OPTIONS, format!("narenas:{arenas}")).exec();
}
