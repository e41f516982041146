//! The ways to the driver's functions, and the client that takes one.

use std::path::PathBuf;
use std::process::Command;

use crate::bench::Bench;
use crate::compiler;

/// A route by its name, the client's arguments, and what else is special.
pub(crate) struct Route {
    pub(crate) name: &'static str,
    pub(crate) arguments: &'static [&'static str],
    pub(crate) program: Program,
    /// Whether another library stands before the driver's.
    pub(crate) is_interposed: bool,
    /// Functions that are of a newer CUDA than the route asks for.
    pub(crate) absent: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// Does not need the driver's library.
    Free,
    /// Is linked against it.
    Linked,
    /// Loads a library that is linked against it, and that looks at its own libraries first.
    Plugin,
}

const fn route(name: &'static str, arguments: &'static [&'static str]) -> Route {
    Route { name, arguments, program: Program::Free, is_interposed: false, absent: &[] }
}

/// Graphs' memory is of CUDA 11.4, extended launches of 11.6.
const EARLY: &[&str] = &["cuGraphAddMemAllocNode", "cuLaunchKernelEx"];

pub(crate) const ROUTES: [Route; 15] = [
    Route { program: Program::Linked, ..route("linked", &["link"]) },
    Route {
        program: Program::Linked,
        is_interposed: true,
        ..route("rtld_next_of_a_second_interposer", &["link"])
    },
    Route { program: Program::Plugin, ..route("linked_plugin_with_deepbind", &["plugin"]) },
    route("dlopen", &["dlopen"]),
    route("dlopen_per_thread_streams", &["dlopen-per-thread"]),
    route("dlopen_global_and_rtld_default", &["global"]),
    route("dlopen_with_deepbind", &["deepbind"]),
    route("dlmopen", &["dlmopen"]),
    Route { is_interposed: true, ..route("dlopen_beside_a_second_interposer", &["dlopen"]) },
    Route {
        absent: EARLY,
        ..route("cu_get_proc_address_11030_flags_0", &["cuGetProcAddress", "11030", "0"])
    },
    Route {
        absent: EARLY,
        ..route("cu_get_proc_address_11030_flags_1", &["cuGetProcAddress", "11030", "1"])
    },
    Route {
        absent: EARLY,
        ..route("cu_get_proc_address_11030_flags_2", &["cuGetProcAddress", "11030", "2"])
    },
    route("cu_get_proc_address_12000_flags_0", &["cuGetProcAddress", "12000", "0"]),
    route("cu_get_proc_address_12000_flags_1", &["cuGetProcAddress", "12000", "1"]),
    route("cu_get_proc_address_12000_flags_2", &["cuGetProcAddress", "12000", "2"]),
];

impl Route {
    /// The client on this way, compiled.
    pub(crate) fn client(&self, bench: &Bench) -> anyhow::Result<Command> {
        let program = match self.program {
            Program::Linked => compiler::build(bench, "linked", &["client.c"], &["-DLINKED"], true)?,
            Program::Free | Program::Plugin => compiler::build(bench, "client", &["client.c"], &[], false)?,
        };
        let mut arguments: Vec<String> = self.arguments.iter().map(|a| (*a).to_owned()).collect();
        if self.program == Program::Plugin {
            let flags = ["-DLINKED", "-shared", "-fPIC"];
            let plugin = compiler::build(bench, "plugin.so", &["client.c"], &flags, true)?;
            arguments.push(plugin.display().to_string());
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let interposer: Option<PathBuf> = self
            .is_interposed
            .then(|| compiler::build(bench, "interposer.so", &["interposer.c"], &["-shared", "-fPIC"], false))
            .transpose()?;
        let preload = interposer.map(|path| format!("LD_PRELOAD={}", path.display()));
        let wrapper: Vec<&str> = preload.iter().flat_map(|p| ["env", p.as_str()]).collect();
        Ok(bench.command(&wrapper, &program, &arguments))
    }
}
