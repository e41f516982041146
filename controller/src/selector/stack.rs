//! Work that recurses as deep as an expression nests.

/// Deep enough for any text the length limit lets through; what is not touched costs nothing.
const STACK: usize = 128 << 20;

/// Runs work on a thread with a deep stack. `None`: it panicked, or there is no thread to have.
pub(super) fn deep<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("cel".to_owned()).stack_size(STACK);
        thread.spawn_scoped(scope, work).ok()?.join().ok()
    })
}
