//! Python's ctypes on the fake driver: a program of another language that was not written for it.

mod node;

use libtest_mimic::{Arguments, Trial};
use node::{MIB, Node};

const SCRIPT: &str = r#"
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
context, address, free = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_size_t()
total, name = ctypes.c_size_t(), ctypes.create_string_buffer(64)
for code in (
    cuda.cuInit(0),
    cuda.cuDeviceGetName(name, 64, 0),
    cuda.cuCtxCreate_v2(ctypes.byref(context), 0, 0),
    cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(100 << 20)),
    cuda.cuMemsetD8_v2(address, ctypes.c_ubyte(65), ctypes.c_size_t(4)),
    cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)),
):
    assert code == 0, code
text = ctypes.create_string_buffer(5)
assert cuda.cuMemcpyDtoH_v2(text, address, ctypes.c_size_t(4)) == 0
print(name.value.decode(), free.value, total.value, text.value.decode())
"#;

fn ctypes() {
    let node = Node::new("T4");
    let output = node.command("python3", &["-c", SCRIPT]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let want = format!("Tesla T4 {} {} AAAA\n", 15_004 * MIB, 15_104 * MIB);
    assert_eq!(text, want, "{}", String::from_utf8_lossy(&output.stderr));
}

fn main() {
    let has_python =
        std::process::Command::new("python3").arg("--version").output().is_ok_and(|o| o.status.success());
    if !has_python {
        println!("skipped: ctypes_can_use_the_driver: there is no python3");
    }
    let trial = Trial::test("ctypes_can_use_the_driver", || {
        ctypes();
        Ok(())
    });
    libtest_mimic::run(&Arguments::from_args(), vec![trial.with_ignored_flag(!has_python)]).exit();
}
