//! Network links of the cluster by netlink, in the network namespace of the caller.

use std::net::Ipv4Addr;

use futures::TryStreamExt;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::SupervisorError;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A netlink connection with a runtime of its own.
pub(super) struct Links {
    runtime: tokio::runtime::Runtime,
    handle: Handle,
}

impl Links {
    pub(super) fn connect() -> Result<Self, SupervisorError> {
        let connect = || -> Result<Self, Cause> {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            let (connection, handle, _) = runtime.block_on(async { rtnetlink::new_connection() })?;
            runtime.spawn(connection);
            Ok(Self { runtime, handle })
        };
        connect().map_err(|source| SupervisorError::Link { action: "open", what: "netlink".into(), source })
    }

    fn run<T>(
        &self,
        action: &'static str,
        what: &str,
        work: impl Future<Output = Result<T, Cause>>,
    ) -> Result<T, SupervisorError> {
        self.runtime.block_on(work).map_err(|source| SupervisorError::Link {
            action,
            what: what.to_owned(),
            source,
        })
    }

    async fn index(&self, name: &str) -> Result<u32, Cause> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        let link = links.try_next().await?.ok_or_else(|| format!("there is no link {name}"))?;
        Ok(link.header.index)
    }

    /// Whether a link is there.
    pub(super) fn exists(&self, name: &str) -> bool {
        self.runtime.block_on(self.index(name)).is_ok()
    }

    /// Removes a link, if it is there, with its other end.
    pub(super) fn remove(&self, name: &str) -> Result<(), SupervisorError> {
        let Ok(index) = self.runtime.block_on(self.index(name)) else { return Ok(()) };
        let removed = self.runtime.block_on(self.handle.link().del(index).execute());
        // The kernel removes it too, some time after the namespace of its other end is gone.
        match removed {
            Err(error) if self.exists(name) => {
                let source = error.into();
                Err(SupervisorError::Link { action: "remove the link", what: name.to_owned(), source })
            }
            _ => Ok(()),
        }
    }

    /// Sets a link up.
    pub(super) fn up(&self, name: &str) -> Result<(), SupervisorError> {
        self.run("set up", name, async {
            let index = self.index(name).await?;
            Ok(self.handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await?)
        })
    }

    /// Makes a bridge with a hardware address of its own. Without one it has the lowest of its links, which changes when
    /// a node comes or goes, and the others go on sending to the old one.
    pub(super) fn bridge(&self, name: &str, address: Ipv4Addr) -> Result<(), SupervisorError> {
        self.run("make the bridge", name, async {
            let bridge = LinkBridge::new(name).address(hardware_address(address)).build();
            Ok(self.handle.link().add(bridge).execute().await?)
        })
    }

    /// Adds an address.
    pub(super) fn address(&self, name: &str, address: Ipv4Addr, prefix: u8) -> Result<(), SupervisorError> {
        self.run("add an address to", name, async {
            let index = self.index(name).await?;
            Ok(self.handle.address().add(index, address.into(), prefix).execute().await?)
        })
    }

    /// Joins the network namespace of a process to a bridge: `name` here, `eth0` there, whose hardware address is that of
    /// a process that had the same address before.
    pub(super) fn join(
        &self,
        name: &str,
        bridge: &str,
        pid: u32,
        address: Ipv4Addr,
    ) -> Result<(), SupervisorError> {
        let peer = format!("{name}-p");
        self.run("make the link", name, async {
            self.handle.link().add(LinkVeth::new(name, &peer).build()).execute().await?;
            let index = self.index(&peer).await?;
            let mac = LinkUnspec::new_with_index(index).address(hardware_address(address)).build();
            self.handle.link().set(mac).execute().await?;
            let there = LinkUnspec::new_with_name(&peer).name("eth0").setns_by_pid(pid).build();
            let mut there = there;
            there.header.index = index;
            self.handle.link().set(there).execute().await?;
            let (bridge, index) = (self.index(bridge).await?, self.index(name).await?);
            let here = LinkUnspec::new_with_index(index).controller(bridge).up().build();
            Ok(self.handle.link().set(here).execute().await?)
        })
    }

    /// Adds a route.
    pub(super) fn route(&self, to: Ipv4Addr, prefix: u8, via: Ipv4Addr) -> Result<(), SupervisorError> {
        self.run("add the route to", &to.to_string(), async {
            let route =
                RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, prefix).gateway(via).build();
            Ok(self.handle.route().add(route).replace().execute().await?)
        })
    }
}

/// A locally administered address, the same for the same IPv4 address.
fn hardware_address(address: Ipv4Addr) -> Vec<u8> {
    [&[0x02, 0x00], &address.octets()[..]].concat()
}
