//! One program of a cluster, to be ended and started again by a test.

use super::Cluster;
use crate::control::{self, ControlError, ProgramStatus, Reply, Request};

/// One program of the control plane or of a node.
#[derive(Debug, Clone, Copy)]
pub struct Handle<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) node: Option<&'a str>,
    pub(super) name: &'a str,
}

impl Handle<'_> {
    fn ask(&self, request: &Request) -> Result<Reply, ControlError> {
        control::ask(&self.cluster.layout.socket(self.node), request)
    }

    /// SIGKILL; its supervisor starts it again (a node stays down).
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn kill(&self) -> Result<(), ControlError> {
        self.ask(&Request::Kill { program: self.name.into() }).map(drop)
    }

    /// SIGTERM; it stays down.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn stop(&self) -> Result<(), ControlError> {
        self.ask(&Request::Stop { program: self.name.into() }).map(drop)
    }

    /// SIGTERM, waits for its end, starts it.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn restart(&self) -> Result<(), ControlError> {
        self.stop()?;
        self.start()
    }

    /// Starts it again; running already is fine.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn start(&self) -> Result<(), ControlError> {
        self.ask(&Request::Start { program: self.name.into() }).map(drop)
    }

    /// Its state.
    ///
    /// # Errors
    /// [`ControlError`], also when there is no such program.
    pub fn status(&self) -> Result<ProgramStatus, ControlError> {
        match self.ask(&Request::Status)? {
            Reply::Status { mut programs } => {
                let unknown = || ControlError::Refused(format!("there is no program {} here", self.name));
                programs.remove(self.name).ok_or_else(unknown)
            }
            other => Err(ControlError::Refused(format!("unexpected answer {other:?}"))),
        }
    }
}
