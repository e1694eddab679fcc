//! A pod: what its containers share. One shim serves one pod (design, principle 3).

mod host_network;
pub(crate) mod ranges;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};

use crate::cgroup::Programs;
use crate::config::{Config, HostOwned, Ids};
use crate::error::{Error, OsContext, Result};
use crate::kernel::features::Features;
use crate::kernel::idmap::{self, IdMap};
use crate::plan::{NsSource, Plan};
use crate::pod::host_network::HostNetwork;
use crate::pod::ranges::{Guest, Owner, Pool, Range};
use crate::sys::ns;

/// State shared by the containers of one shim.
#[derive(Debug)]
pub struct Pod {
    config: Config,
    shared: Mutex<Shared>,
    features: OnceLock<Features>,
    device_programs: Programs,
}

/// A plain mutex: held for look-ups and for the few system calls that make what is shared.
#[derive(Debug, Default)]
struct Shared {
    owner: Owner,
    range: Option<Range>,
    users: Option<Users>,
}

/// The pod's user namespace, once its first container has made it.
#[derive(Debug)]
struct Users {
    ns: OwnedFd,
    idmap: IdMap,
}

/// Where a container's user namespace comes from.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Its mappings, to be written where the namespace is new.
    pub(crate) idmap: IdMap,
    /// The namespace to join; none: a new one.
    pub(crate) join: Option<OwnedFd>,
    /// The stay in the range of another pod whose namespace that is.
    guest: Option<Guest>,
    /// The network that is to be moved.
    pub(crate) host_network: Option<HostNetwork>,
}

impl Pod {
    /// A pod without containers. Nothing is made until the first container is.
    pub fn new(config: Config) -> Result<Arc<Pod>> {
        Ok(Arc::new(Pod {
            config,
            shared: Mutex::default(),
            features: OnceLock::new(),
            device_programs: Programs::default(),
        }))
    }

    /// The configuration the pod was started with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Looks for what the kernel has, ahead of the first create, which would wait for it. Takes some 0.2 ms.
    pub fn prepare(&self) {
        let _ = self.features();
    }

    /// What the kernel has, as the configuration lets us see it, looked for once.
    pub(crate) fn features(&self) -> &Features {
        self.features
            .get_or_init(|| Features::probe(&self.config.pretend_missing))
    }

    /// The device programs of its containers.
    pub(crate) fn device_programs(&self) -> &Programs {
        &self.device_programs
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        // Every change of it is one assignment: a panic elsewhere leaves it whole.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides on the user namespace of a container (design D4), its ids being `ids` where a range is allocated, and
    /// registers it as a member until the membership is dropped.
    pub(crate) fn join(
        self: &Arc<Pod>,
        plan: &Plan,
        id: &str,
        ids: &Ids,
    ) -> Result<(Identity, Membership)> {
        let mut shared = self.shared();
        let cgroup = plan.cgroup_path.clone();
        if shared.owner.cgroups.contains(&cgroup) {
            return Err(Error::AlreadyExists(format!("cgroup {cgroup}")));
        }
        let joined = Joined::new(plan, self.config.network.host_owned)?;
        let mut identity = self.identity(&mut shared, plan, ids, joined.owner)?;
        identity.host_network = joined.host_network;
        if shared.owner.cgroups.is_empty() {
            shared.owner.pod = id.to_string();
        }
        shared.owner.cgroups.insert(cgroup.clone());
        let recorded = shared.record();
        drop(shared);
        let membership = Membership {
            pod: Arc::clone(self),
            cgroup,
            guest: Mutex::new(identity.guest.take()),
        };
        recorded.map(|()| (identity, membership))
    }

    fn identity(
        &self,
        shared: &mut Shared,
        plan: &Plan,
        ids: &Ids,
        owner: Option<(OwnedFd, String)>,
    ) -> Result<Identity> {
        if let NsSource::Join(path) = &plan.namespaces.user {
            let ns = open_ns("linux.namespaces user path", path)?;
            let (idmap, guest) = match (&plan.idmap, shared.known(&ns)?) {
                (Some(given), None) => (given.clone(), self.claim(given, plan, ids)?),
                (Some(given), Some(_)) => (given.clone(), None),
                (None, Some(known)) => (known, None),
                (None, None) => (mappings_by_path(path)?, None),
            };
            return Ok(Identity {
                idmap,
                join: Some(ns),
                guest,
                host_network: None,
            });
        }
        if let Some((ns, path)) = owner {
            if let Some(known) = shared.known(&ns)? {
                return Ok(Identity {
                    idmap: known,
                    join: Some(ns),
                    guest: None,
                    host_network: None,
                });
            }
            let idmap = mappings_by_path(&path)?;
            let guest = Guest::enter(Path::new(&self.config.state_dir), &idmap, &plan.cgroup_path)?;
            // Whoever it is the guest of lives, or the range may be somebody else's by now.
            let now = open_ns("linux.namespaces path", &path)?;
            if !same(&ns::owner(now).os("NS_GET_USERNS of", &path)?, &ns)? {
                return Err(Error::NotFound(path));
            }
            return Ok(Identity {
                idmap,
                join: Some(ns),
                guest,
                host_network: None,
            });
        }
        if let Some(idmap) = &plan.idmap {
            return Ok(Identity {
                idmap: idmap.clone(),
                join: None,
                guest: self.claim(idmap, plan, ids)?,
                host_network: None,
            });
        }
        if let Some(users) = &shared.users {
            let ns = users.ns.try_clone().os("dup", "user namespace")?;
            return Ok(Identity {
                idmap: users.idmap.clone(),
                join: Some(ns),
                guest: None,
                host_network: None,
            });
        }
        if shared.range.is_none() {
            let pool = Pool::new(ids, Path::new(&self.config.state_dir))?;
            shared.range = Some(pool.allocate()?);
        }
        let range = shared
            .range
            .as_ref()
            .ok_or_else(|| Error::NotFound("id range".into()))?;
        let idmap = IdMap::single(range.first, range.count);
        Ok(Identity {
            idmap,
            join: None,
            guest: None,
            host_network: None,
        })
    }

    /// Keeps ids that the engine has chosen out of other pods' ranges, while the container lives.
    fn claim(&self, idmap: &IdMap, plan: &Plan, ids: &Ids) -> Result<Option<Guest>> {
        let state_dir = Path::new(&self.config.state_dir);
        Guest::claim(state_dir, ids, idmap, &plan.cgroup_path)
    }

    /// Remembers the user namespace that a first container has made of the pod's range.
    pub(crate) fn made(&self, ns: &OwnedFd, idmap: &IdMap) -> Result<()> {
        let mut shared = self.shared();
        let own = shared
            .range
            .as_ref()
            .is_some_and(|range| *idmap == IdMap::single(range.first, range.count));
        if own && shared.users.is_none() {
            let ns = ns.try_clone().os("dup", "user namespace")?;
            shared.users = Some(Users {
                ns,
                idmap: idmap.clone(),
            });
        }
        Ok(())
    }

    /// A container has gone. With the last one the user namespace and the range go.
    fn leave(&self, cgroup: &str) -> Result<()> {
        let mut shared = self.shared();
        if !shared.owner.cgroups.remove(cgroup) {
            return Ok(());
        }
        if shared.owner.cgroups.is_empty() {
            *shared = Shared::default();
            return Ok(());
        }
        shared.record()
    }
}

/// A container's place in its pod.
#[derive(Debug)]
pub(crate) struct Membership {
    pod: Arc<Pod>,
    cgroup: String,
    guest: Mutex<Option<Guest>>,
}

impl Membership {
    /// The pod.
    pub(crate) fn pod(&self) -> &Pod {
        &self.pod
    }

    /// Gives the place up; again is nothing.
    pub(crate) fn leave(&self) -> Result<()> {
        drop(
            self.guest
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        self.pod.leave(&self.cgroup)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        // Where it fails the range's file still names us: `delete` of the record frees it.
        let _ = self.leave();
    }
}

impl Shared {
    /// Tells the range's file who has it, before a process of the container runs.
    fn record(&self) -> Result<()> {
        match &self.range {
            Some(range) => range.record(&self.owner),
            None => Ok(()),
        }
    }

    /// Mappings of `ns` if it is the pod's own.
    fn known(&self, ns: &OwnedFd) -> Result<Option<IdMap>> {
        let Some(users) = &self.users else {
            return Ok(None);
        };
        Ok(same(&users.ns, ns)?.then(|| users.idmap.clone()))
    }
}

/// What the namespaces that a container joins say of it.
#[derive(Debug, Default)]
struct Joined {
    /// The user namespace that owns them, with the path that told.
    owner: Option<(OwnedFd, String)>,
    /// The network, where it is the host's and is to be moved.
    host_network: Option<HostNetwork>,
}

impl Joined {
    fn new(plan: &Plan, host_owned: HostOwned) -> Result<Joined> {
        let host = open_ns("host's user namespace", "/proc/self/ns/user")?;
        let mut joined = Joined::default();
        for (source, field) in [
            (&plan.namespaces.net, NETWORK),
            (&plan.namespaces.ipc, "linux.namespaces ipc path"),
            (&plan.namespaces.pid, "linux.namespaces pid path"),
            (&plan.namespaces.uts, "linux.namespaces uts path"),
        ] {
            let NsSource::Join(path) = source else {
                continue;
            };
            let ns = open_ns(field, path)?;
            let owner = ns::owner(&ns).os("NS_GET_USERNS of", path)?;
            if !same(&owner, &host)? {
                joined.owner = Some((owner, path.clone()));
                break;
            }
            if field != NETWORK || same(&ns, open_ns(field, "/proc/self/ns/net")?)? {
                return Err(host_owned_error(field, path, ""));
            }
            if host_owned == HostOwned::Refuse {
                let allow =
                    ", or set `host-owned = \"move\"` in section [network] of the configuration";
                return Err(host_owned_error(field, path, allow));
            }
            joined.host_network = HostNetwork::new(ns, path)?;
            if joined.host_network.is_none() {
                return Err(host_owned_error(field, path, ""));
            }
        }
        Ok(joined)
    }
}

const NETWORK: &str = "linux.namespaces network path";

fn host_owned_error(field: &str, path: &str, or: &str) -> Error {
    Error::invalid(
        field,
        path,
        format!(
            "belongs to the host's user namespace, over which root inside has no power: leave the path out for a new \
             namespace, or use `hostUsers: false` so that the engine makes it inside the pod's user namespace{or}"
        ),
    )
}

/// Mappings of a process named by its namespace's path, `/proc/PID/ns/…`.
fn mappings_by_path(path: &str) -> Result<IdMap> {
    let unknown = || {
        Error::invalid(
            "linux.uidMappings",
            "none",
            format!("give the mappings of the user namespace that owns {path}"),
        )
    };
    let proc = path
        .strip_prefix("/proc/")
        .and_then(|rest| rest.split_once("/ns/"))
        .ok_or_else(unknown)?
        .0;
    let read = |file: &str| {
        let path = format!("/proc/{proc}/{file}");
        idmap::parse(&std::fs::read_to_string(&path).os("read", &path)?).ok_or_else(unknown)
    };
    Ok(IdMap {
        uids: read("uid_map")?,
        gids: read("gid_map")?,
    })
}

fn open_ns(field: &str, path: &str) -> Result<OwnedFd> {
    openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
        Error::invalid(
            field,
            path,
            format!("cannot be opened ({errno}): give the path of a namespace"),
        )
    })
}

fn same(a: impl AsFd, b: impl AsFd) -> Result<bool> {
    let (a, b) = (
        fstat(a).os("stat", "namespace")?,
        fstat(b).os("stat", "namespace")?,
    );
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}
